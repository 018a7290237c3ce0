"""Batches by token budget: which exchanges share a step, and the tensors of a batch."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from chatformer.loss import IGNORED
from chatformer.padding import mask_of, padded_sources

from .exchanges import EncodedExchanges

ROWS_OF_A_BATCH = 8
"""Every batch except the last has a multiple of this many exchanges."""

EXCHANGES_OF_A_POOL = 2**20
"""If there are more exchanges, they are planned in pools of this size, which bounds the memory of planning."""


def plan_epoch(exchanges: EncodedExchanges, tokens_per_step: int, seed: int, epoch: int) -> list[np.ndarray]:
    """
    The steps of one epoch in their order, each as indices of exchanges sorted by length.

    Exchanges of similar length share a step of about `tokens_per_step` source and target tokens. Their choice and the
    order of the steps are random, and depend only on the seed and the epoch, not on the number of processes or
    micro-batches.
    """
    generator = np.random.default_rng((seed, epoch))
    chance = exchanges.drawn(generator)
    sources, targets = exchanges.source_lengths, exchanges.target_lengths
    # From the mean of all epochs, so that each has the same number of steps.
    num_steps = max(1, round(exchanges.tokens_per_epoch / tokens_per_step))
    steps: list[np.ndarray] = []
    num_pools = min(num_steps, max(1, -(-len(chance) // EXCHANGES_OF_A_POOL)))
    for number, pool in enumerate(np.array_split(chance, num_pools), start=1):
        steps += _of_like_length(pool, num_steps * number // num_pools - len(steps), sources, targets)
    return [steps[index] for index in generator.permutation(len(steps))]


def _of_like_length(indices: np.ndarray, num_steps: int, sources: np.ndarray, targets: np.ndarray) -> list[np.ndarray]:
    """
    Divide exchanges into steps with about equally many tokens.

    They are sorted by source length or by target length, whichever leaves less padding, and cut into halves; each half
    is divided likewise. Equally long exchanges keep their order.
    """
    if num_steps == 1 or len(indices) <= ROWS_OF_A_BATCH:
        return [indices]
    halvings = []
    for first, second in ((sources, targets), (targets, sources)):
        order = indices[np.lexsort((second[indices], first[indices]))]
        tokens = (sources[order] + targets[order]).cumsum()
        middle = np.searchsorted(tokens, tokens[-1] * (num_steps // 2) / num_steps)
        # Batches have only a few sizes: hardware selects, or compiles, its kernels by shape.
        middle = max(1, round(middle / ROWS_OF_A_BATCH)) * ROWS_OF_A_BATCH
        halvings.append([half for half in np.split(order, [middle]) if len(half)])
    halves = min(
        halvings, key=lambda halves: sum(len(half) * (sources[half].max() + targets[half].max()) for half in halves)
    )
    if len(halves) == 1:
        return halves
    counts = (num_steps // 2, num_steps - num_steps // 2)
    return [
        step
        for half, count in zip(halves, counts, strict=True)
        for step in _of_like_length(half, count, sources, targets)
    ]


def split_step(step: np.ndarray, num_parts: int) -> list[np.ndarray]:
    """Parts of a step with similar sizes and lengths, for micro-batches and processes; a part may be empty."""
    return np.array_split(step, num_parts)


def collate(
    exchanges: EncodedExchanges,
    indices: Sequence[int] | np.ndarray,
    pad_token_id: int,
    change_source: Callable[[np.ndarray, int], np.ndarray] | None = None,
) -> dict[str, torch.Tensor]:
    """
    A batch of the exchanges at `indices`: input_ids and attention_mask, (B, S), and labels, (B, T).

    `change_source` takes a source and its index, and returns the source to use instead. Without indices the batch has
    one exchange without a loss: if a step has fewer exchanges than processes, every rank still computes.
    """
    chosen = np.asarray(indices if len(indices) else [0])
    if change_source is None:
        lengths = exchanges.source_lengths[chosen]
        source_ids = torch.from_numpy(exchanges.sources.padded(chosen, pad_token_id))
        batch = {"input_ids": source_ids, "attention_mask": mask_of(lengths)}
    else:
        batch = padded_sources(
            [change_source(exchanges.source(index), index) for index in chosen.tolist()], pad_token_id
        )
    labels = torch.from_numpy(exchanges.targets.padded(chosen, IGNORED))
    if not len(indices):
        labels.fill_(IGNORED)
    return {**batch, "labels": labels}


def padding_share(exchanges: EncodedExchanges, steps: Sequence[np.ndarray], num_parts: int) -> float:
    """The share of padding in the batches of an epoch, 0 to 1."""
    num_tokens = num_places = 0
    sources, targets = exchanges.source_lengths, exchanges.target_lengths
    for step in steps:
        for part in split_step(step, num_parts):
            for lengths in (sources[part], targets[part]):
                if len(part):
                    num_tokens += int(lengths.sum())
                    num_places += int(lengths.max()) * len(part)
    return 1 - num_tokens / num_places
