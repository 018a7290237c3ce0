import itertools

import datasets
import numpy as np
import pytest
import torch

from chatformer import ChatformerForConditionalGeneration, sized_config
from chatformer.conversation import encode_conversation
from chatformer.data import batches, exchanges
from chatformer.data.batches import (
    IGNORED,
    ROWS_OF_A_BATCH,
    collate,
    padding_share,
    plan_epoch,
    split_step,
)
from chatformer.data.exchanges import EncodedExchanges, content_digest, encode_exchanges
from chatformer.data.messages import DataError


def of_lengths(source_lengths, target_lengths):
    """Return exchanges of these lengths, every token of the i-th having the id i."""
    features = datasets.Features({name: datasets.List(datasets.Value("int32")) for name in ("input_ids", "labels")})
    rows = {
        name: [[number] * length for number, length in enumerate(lengths)]
        for name, lengths in (("input_ids", source_lengths), ("labels", target_lengths))
    }
    return EncodedExchanges(datasets.Dataset.from_dict(rows, features))


@pytest.fixture(scope="module")
def realistic():
    """Return 20,000 exchanges with lengths as short conversations have them: many short ones, a few long ones."""
    chance = np.random.default_rng(0)
    lengths = np.exp(chance.normal([2.3, 2.5], [0.7, 0.6], size=(20_000, 2))).astype(int).clip(2, 128)
    return of_lengths(*lengths.T)


@pytest.fixture(scope="module")
def encoded(conversations, tokenizer):
    return encode_exchanges(conversations, tokenizer, 100, 100)


def said(*contents, system=None):
    """Return messages in which user and assistant take turns."""
    turns = [{"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(contents)]
    return [{"role": "system", "content": system}, *turns] if system else turns


@pytest.mark.parametrize("tokens_per_step", [1, 700, 4000, 10**9])
def test_an_epoch_has_every_exchange_exactly_once(realistic, tokens_per_step):
    steps = plan_epoch(realistic, tokens_per_step, seed=1, epoch=3)
    assert all(len(step) for step in steps)
    assert sorted(np.concatenate(steps)) == list(range(len(realistic)))


@pytest.mark.parametrize("tokens_per_step", [700, 4000, 10**9])
def test_of_many_exchanges_a_pool_is_planned_at_a_time(realistic, tokens_per_step, monkeypatch):
    whole = plan_epoch(realistic, tokens_per_step, seed=1, epoch=3)
    monkeypatch.setattr(batches, "EXCHANGES_OF_A_POOL", 6000)
    plans = [plan_epoch(realistic, tokens_per_step, seed=1, epoch=epoch) for epoch in (3, 4)]
    for steps in plans:
        assert sorted(np.concatenate(steps)) == list(range(len(realistic)))
        assert len(steps) == len(whole)
        # A pool has a quarter of the exchanges to choose from.
        assert padding_share(realistic, steps, 1) < 2.5 * padding_share(realistic, whole, 1)
    pool = set(np.random.default_rng((1, 3)).permutation(len(realistic))[:5000])
    steps = [set(step) for step in plans[0]]
    assert len(steps) == 1 or all(step <= pool or not step & pool for step in steps)


def test_the_order_is_of_the_seed_and_the_epoch(realistic):
    def plan(seed, epoch):
        return [step.tolist() for step in plan_epoch(realistic, 2000, seed, epoch)]

    assert plan(1, 0) == plan(1, 0)
    plans = [plan(1, 0), plan(1, 1), plan(2, 0)]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert plans[one] != plans[other]
        # Not only the steps' order is drawn, but also who is with whom.
        assert {frozenset(step) for step in plans[one]} != {frozenset(step) for step in plans[other]}
    assert len({len(steps) for steps in plans}) == 1


def test_short_and_long_exchanges_come_in_no_order(realistic):
    lengths = [realistic.target_lengths[step].mean() for step in plan_epoch(realistic, 2000, seed=0, epoch=0)]
    assert abs(np.corrcoef(lengths, np.arange(len(lengths)))[0, 1]) < 0.3


@pytest.mark.parametrize("tokens_per_step", [500, 2000, 10_000])
def test_a_step_has_about_as_many_tokens_as_it_should(realistic, tokens_per_step):
    lengths = realistic.source_lengths + realistic.target_lengths
    tokens = [lengths[step].sum() for step in plan_epoch(realistic, tokens_per_step, seed=0, epoch=0)]
    assert np.mean(tokens) == pytest.approx(tokens_per_step, rel=0.05)
    # Steps are cut between exchanges, and have a multiple of eight of them.
    assert max(abs(np.array(tokens) - np.mean(tokens))) <= ROWS_OF_A_BATCH * lengths.max()


def test_little_of_a_batch_is_padding(realistic):
    steps = plan_epoch(realistic, 1000, seed=0, epoch=0)
    assert padding_share(realistic, steps, num_parts=1) < 0.05
    assert padding_share(realistic, steps, num_parts=4) < 0.05
    at_random = np.array_split(np.random.default_rng(0).permutation(len(realistic)), len(steps))
    assert padding_share(realistic, at_random, num_parts=1) > 0.5


def test_the_parts_of_a_step_are_the_step():
    step = np.array([5, 3, 8, 1, 9])
    for num_parts in (1, 2, 5, 8):
        parts = split_step(step, num_parts)
        assert len(parts) == num_parts
        assert np.concatenate(parts).tolist() == step.tolist()


def test_a_batch_is_padded_to_its_longest_and_masked():
    exchanges = of_lengths([2, 4, 1], [3, 1, 2])
    batch = collate(exchanges, np.array([2, 1]), pad_token_id=77)
    assert batch["input_ids"].tolist() == [[2, 77, 77, 77], [1, 1, 1, 1]]
    assert batch["attention_mask"].tolist() == [[1, 0, 0, 0], [1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[2, 2], [1, IGNORED]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_a_part_without_exchanges_computes_but_changes_nothing(encoded, tokenizer, label_smoothing):
    torch.manual_seed(0)
    model = ChatformerForConditionalGeneration(sized_config("tiny", d_model=32, vocab_size=len(tokenizer)))
    batch = collate(encoded, np.array([], dtype=int), tokenizer.pad_token_id)
    loss = model(**batch, num_items_in_batch=7, label_smoothing=label_smoothing).loss
    loss.backward()
    assert loss.item() == 0
    # All have a gradient, or the processes of a distributed training would wait for each other in vain.
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())


def test_every_reply_is_an_exchange_with_the_turns_before_it(tokenizer):
    messages = said("안녕", "반가워요", "again!", "네", "고마워", "뭘요", system="짧게")
    encoded = encode_exchanges([{"messages": messages}, {"messages": said("1 2", "3")}], tokenizer, 100, 100)
    assert encoded.replies == ["반가워요", "네", "뭘요", "3"]
    assert encoded.histories == [messages[:2], messages[:4], messages[:6], said("1 2")]
    for index in range(4):
        assert encoded.source(index).tolist() == encode_conversation(tokenizer, encoded.histories[index])
        assert encoded.target(index).tolist() == tokenizer(encoded.replies[index])["input_ids"]
        assert encoded.source_lengths[index] == len(encoded.source(index))
        assert encoded.target_lengths[index] == len(encoded.target(index))


def test_replies_that_are_too_long_are_left_out_and_counted(tokenizer):
    messages = said("1", "가" * 50, "2", "네", "3", "나" * 50)
    limit = len(tokenizer("네")["input_ids"])
    encoded = encode_exchanges([{"messages": messages}], tokenizer, 1000, limit)
    assert (encoded.replies, encoded.num_too_long) == (["네"], 2)
    # It stays what the model is asked after.
    assert encoded.histories == [messages[:3]]


def test_too_long_sources_can_be_left_out_or_refused_as_well(tokenizer):
    conversations = [{"messages": said("1", "네", "가" * 50, "응")}]
    whole = encode_exchanges(conversations, tokenizer, 1000, 100)
    limit = int(whole.source_lengths[0])
    cut = encode_exchanges(conversations, tokenizer, limit, 100)
    assert (cut.replies, cut.source_lengths.tolist()) == (["네", "응"], [limit, limit])
    dropped = encode_exchanges(conversations, tokenizer, limit, 100, too_long="drop")
    assert (dropped.replies, dropped.num_too_long) == (["네"], 1)
    with pytest.raises(DataError, match="too long"):
        encode_exchanges(conversations, tokenizer, limit, 100, too_long="refuse")
    assert len(encode_exchanges(conversations, tokenizer, 1000, 100, too_long="refuse")) == 2


def same(one, other):
    return one.rows.to_list() == other.rows.to_list() and one.num_too_long == other.num_too_long


def test_what_was_encoded_once_is_read_from_its_file(conversations, tokenizer, tmp_path, monkeypatch):
    encoded = encode_exchanges(conversations, tokenizer, 100, 4, cache_folder=tmp_path)
    assert encoded.num_too_long and same(encoded, encode_exchanges(conversations, tokenizer, 100, 4))
    monkeypatch.setattr(exchanges, "_encode_batch", None)
    assert same(encoded, encode_exchanges(conversations, tokenizer, 100, 4, cache_folder=tmp_path))
    # Anything else is another file's.
    for others, limits in ((conversations[1:], (100, 4)), (conversations, (100, 6))):
        with pytest.raises(TypeError):
            encode_exchanges(others, tokenizer, *limits, cache_folder=tmp_path)


def test_a_digest_is_of_the_conversations_and_not_of_how_they_lie():
    rows = [{"messages": said(f"{number}", f"답 {number}")} for number in range(30)]
    whole = datasets.Dataset.from_list(rows)
    digest = content_digest(whole)
    in_pieces = datasets.concatenate_datasets([datasets.Dataset.from_list(part) for part in (rows[:7], rows[7:])])
    chosen = datasets.Dataset.from_list([rows[0], *rows]).select(range(1, 31))
    assert content_digest(in_pieces) == content_digest(chosen) == digest
    for changed in (
        rows[1:],
        rows[::-1],
        [*rows[:-1], {"messages": said("29", "답 30")}],
        [{"messages": [{**message, "role": "system"} for message in rows[0]["messages"]]}, *rows[1:]],
        # The same letters and roles, cut elsewhere.
        [{"messages": rows[0]["messages"] + rows[1]["messages"]}, *rows[2:]],
    ):
        assert content_digest(datasets.Dataset.from_list(changed)) != digest
    one, other = (datasets.Dataset.from_list([{"messages": said(*texts)}]) for texts in (("12", "3"), ("1", "23")))
    assert content_digest(one) != content_digest(other)


def test_several_processes_encode_what_one_does(conversations, tokenizer, tmp_path):
    one = encode_exchanges(conversations, tokenizer, 100, 4)
    several = encode_exchanges(conversations, tokenizer, 100, 4, num_processes=2, cache_folder=tmp_path)
    assert same(one, several)
    assert [one.source(index).tolist() for index in range(len(one))] == [
        several.source(index).tolist() for index in range(len(one))
    ]


def test_when_no_exchange_is_left_that_is_no_error(tokenizer):
    encoded = encode_exchanges([{"messages": said("1", "2")}], tokenizer, 100, 1)
    assert (len(encoded), encoded.num_too_long) == (0, 1)


@pytest.mark.parametrize("system", [None, "짧게 말해"])
def test_a_conversation_is_cut_by_whole_exchanges_and_no_more_than_needed(tokenizer, system):
    turns = said("하나", "one", "둘", "two", "셋", "three", "넷")
    opening = said(system=system)
    # What is left of seven turns is seven, five, three or one.
    kept = [encode_conversation(tokenizer, opening + turns[begin:]) for begin in (0, 2, 4, 6)]
    for longer, shorter in itertools.pairwise(kept):
        for max_tokens in (len(longer) - 1, len(shorter)):
            assert encode_conversation(tokenizer, opening + turns, max_tokens) == shorter
    assert encode_conversation(tokenizer, opening + turns, len(kept[0])) == kept[0]


def test_a_last_turn_that_is_too_long_alone_keeps_its_end(tokenizer):
    messages = said("하나", "one", "가나다라마바사아자차카타파하", system="짧게")
    whole = encode_conversation(tokenizer, messages)
    assert encode_conversation(tokenizer, messages, 7) == whole[-7:]
    assert encode_conversation(tokenizer, messages) == whole
