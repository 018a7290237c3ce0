import datasets
import numpy as np
import pytest

from chatformer.conversation import encode_conversation
from chatformer.data.batches import plan_epoch
from chatformer.data.exchanges import EncodedExchanges, encode_exchanges
from chatformer.data.topics import (
    ENOUGH_TWINS,
    MOST_OTHER_CONVERSATIONS,
    MOST_TWINS,
    behind_other_topics,
    num_twins,
)

LONG = {"max_source_tokens": 10_000, "max_target_tokens": 10_000}


@pytest.fixture
def dataset(conversations):
    return datasets.Dataset.from_list(conversations)


@pytest.fixture
def alone(dataset, tokenizer):
    return encode_exchanges(dataset, tokenizer, **LONG)


@pytest.fixture
def mixed(alone, dataset, tokenizer):
    twins = encode_exchanges(behind_other_topics(alone, dataset, 10_000, seed=0), tokenizer, last_only=True, **LONG)
    return alone.with_behind_others(twins, 0.3)


def test_each_exchange_stands_behind_one_to_four_whole_conversations(alone, dataset):
    originals, seen = list(dataset["messages"]), set()
    behind = behind_other_topics(alone, dataset, 10_000, seed=0)
    times = num_twins(alone)
    assert times == MOST_TWINS and len(behind) == times * len(alone)
    for messages, history, reply in zip(
        behind["messages"], alone.histories * times, alone.replies * times, strict=True
    ):
        end = [*history, {"role": "assistant", "content": reply}]
        assert messages[-len(end) :] == end
        before, count = messages[: -len(end)], 0
        while before:
            first = next(made for made in originals if before[: len(made)] == made)
            before, count = before[len(first) :], count + 1
        # A system message speaks of the whole conversation, which nothing stands before.
        assert (count == 0) == (end[0]["role"] == "system")
        seen.add(count)
    assert seen == set(range(MOST_OTHER_CONVERSATIONS + 1))


def test_of_others_only_those_are_left_for_which_there_is_room(alone, dataset, tokenizer):
    """A source has what it would have if none were left out, but for what is cut in a conversation."""
    long, short = (behind_other_topics(alone, dataset, limit, seed=0)["messages"] for limit in (10_000, 60))
    counts = [(len(many), len(few)) for many, few in zip(long, short, strict=True)]
    assert all(few <= many for many, few in counts) and sum(few < many for many, few in counts) > len(counts) / 6
    lengths = []
    for messages, history in zip(short, alone.histories * num_twins(alone), strict=True):
        # The nearest is always there.
        assert len(messages) > len(history) + 1 or history[0]["role"] == "system"
        lengths.append(len(encode_conversation(tokenizer, messages[:-1])))
    assert np.median(lengths) < 90


def test_the_seed_draws_the_others(alone, dataset):
    first, again, other = (behind_other_topics(alone, dataset, 10_000, seed=seed).to_list() for seed in (0, 0, 1))
    assert first == again != other


def test_only_the_reply_of_the_exchange_is_learnt_there(mixed, alone):
    count = len(alone)
    assert mixed.num_alone == count and mixed.replies == alone.replies * (1 + num_twins(alone))
    for index in range(len(mixed)):
        assert mixed.target(index).tolist() == alone.target(index % count).tolist()


def test_an_exchange_stands_behind_others_each_time(mixed):
    has_system = [history[0]["role"] == "system" for history in mixed.alone.histories]
    for index in range(mixed.num_alone):
        sources = {tuple(mixed.source(place)) for place in range(index, len(mixed), mixed.num_alone)}
        # Its own conversations are few here, so that some are drawn twice.
        assert (len(sources) == 1) if has_system[index] else (len(sources) > mixed.num_twins // 2)


def test_the_more_exchanges_the_fewer_twins(alone):
    many = EncodedExchanges(alone.rows.select(np.arange(ENOUGH_TWINS // 3) % len(alone)))
    assert num_twins(many) == 3
    assert num_twins(EncodedExchanges(alone.rows.select(np.arange(2 * ENOUGH_TWINS) % len(alone)))) == 1


def test_an_epoch_reads_each_exchange_once_and_a_share_of_them_behind_others(mixed):
    count, shares = mixed.num_alone, []
    behind = set()
    for epoch in range(100):
        indices = np.concatenate(plan_epoch(mixed, 300, seed=1, epoch=epoch))
        assert sorted(indices % count) == list(range(count))
        shares.append((indices >= count).mean())
        behind |= set(indices[indices >= count].tolist())
    assert 0.27 < np.mean(shares) < 0.33
    # Others each time, so that every exchange is learnt in all its ways.
    assert len(behind) > 0.95 * (len(mixed) - count)


def test_the_tokens_of_an_epoch_are_those_of_the_mean(mixed):
    lengths = mixed.source_lengths + mixed.target_lengths
    tokens = [lengths[np.concatenate(plan_epoch(mixed, 300, seed=1, epoch=epoch))].sum() for epoch in range(50)]
    assert mixed.tokens_per_epoch == pytest.approx(np.mean(tokens), rel=0.02)
