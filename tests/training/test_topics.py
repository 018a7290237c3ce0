import datasets
import pytest

from chatformer.training.conversations import exchanges
from chatformer.training.encoding import encode_exchanges
from chatformer.training.topics import MOST_OTHER_CONVERSATIONS, behind_other_topics


@pytest.fixture
def dataset(conversations):
    return datasets.Dataset.from_list(conversations)


def contents(messages):
    return [message["content"] for message in messages]


def test_a_share_of_the_replies_comes_once_more_behind_one_to_four_other_conversations(dataset):
    mixed = behind_other_topics(dataset, 0.5, seed=0)
    originals = list(dataset["messages"])
    ends = [
        [*history, {"role": "assistant", "content": reply}] for made in originals for history, reply in exchanges(made)
    ]
    assert 0.3 * len(ends) < len(mixed) < 0.7 * len(ends)
    seen = set()
    for messages in mixed["messages"]:
        end = max((end for end in ends if messages[-len(end) :] == end), key=len)
        before, count = messages[: -len(end)], 0
        while before:
            # Whole conversations of the training alone.
            first = next(made for made in originals if before[: len(made)] == made)
            before, count = before[len(first) :], count + 1
        seen.add(count)
    assert seen == set(range(1, MOST_OTHER_CONVERSATIONS + 1))


def test_without_a_share_there_are_none_and_the_seed_draws_them(dataset):
    assert len(behind_other_topics(dataset, 0, seed=0)) == 0
    first, again, other = (behind_other_topics(dataset, 0.5, seed=seed).to_list() for seed in (0, 0, 1))
    assert first == again != other


def test_a_conversation_with_a_system_message_is_left_as_it_is(dataset):
    with_system = [
        {"messages": [{"role": "system", "content": "be brief"}, *made["messages"]]} for made in dataset.to_list()
    ]
    assert len(behind_other_topics(datasets.Dataset.from_list(with_system), 0.9, seed=0)) == 0


def test_only_the_last_reply_of_a_mixed_conversation_is_learnt(dataset, tokenizer):
    mixed = behind_other_topics(dataset, 0.5, seed=0)
    encoded = encode_exchanges(mixed, tokenizer, 10_000, 10_000, last_only=True)
    assert len(encoded) == len(mixed)
    assert encoded.replies == [messages[-1]["content"] for messages in mixed["messages"]]
    assert [contents(history) for history in encoded.histories] == [contents(m[:-1]) for m in mixed["messages"]]
