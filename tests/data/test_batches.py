import datasets
import numpy as np
import pytest
import torch

from chatformer import ChatformerForConditionalGeneration, sized_config
from chatformer.data import batches
from chatformer.data.batches import (
    IGNORED,
    ROWS_OF_A_BATCH,
    collate,
    padding_share,
    plan_epoch,
    split_step,
)
from chatformer.data.exchanges import EncodedExchanges, encode_exchanges


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
