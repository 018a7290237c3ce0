"""From conversations to steps: exchanges as ids, and batches by token budget from length buckets."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from chatformer.conversation import encode_conversation

from .conversations import exchanges

IGNORED = -100
"""A label that has no loss."""

ROWS_OF_A_BATCH = 8
"""The number of exchanges in a batch is a multiple of this, but for the last."""


@dataclass(frozen=True)
class EncodedExchanges:
    """
    Sources and targets as ids, each kind in one flat array, so that millions of them cost no objects.

    `source_ids[source_ends[i - 1]:source_ends[i]]` is the i-th source, and likewise for the targets.
    """

    source_ids: np.ndarray
    source_ends: np.ndarray
    target_ids: np.ndarray
    target_ends: np.ndarray
    replies: list[str]
    histories: list[list[dict[str, str]]]
    num_too_long: int

    def __len__(self) -> int:
        return len(self.source_ends)

    @cached_property
    def source_lengths(self) -> np.ndarray:
        return np.diff(self.source_ends, prepend=0)

    @cached_property
    def target_lengths(self) -> np.ndarray:
        return np.diff(self.target_ends, prepend=0)

    def source(self, index: int) -> np.ndarray:
        return self.source_ids[self.source_ends[index - 1] if index else 0 : self.source_ends[index]]

    def target(self, index: int) -> np.ndarray:
        return self.target_ids[self.target_ends[index - 1] if index else 0 : self.target_ends[index]]


def encode_exchanges(
    conversations: Iterable[dict[str, Any]], tokenizer: Any, max_source_tokens: int, max_target_tokens: int
) -> EncodedExchanges:
    """
    Encode each reply of each conversation, with the turns before it as its source.

    Of sources that are too long the oldest turns are left out; exchanges whose reply is too long are left out whole,
    and counted: a model that is shown cut replies learns to break off.
    """
    sources, targets, replies, histories, num_too_long = [], [], [], [], 0
    for conversation in conversations:
        for history, reply in exchanges(conversation["messages"]):
            # What people typed never becomes a control token; the end token comes behind it.
            target = tokenizer(reply, split_special_tokens=True)["input_ids"]
            if len(target) > max_target_tokens:
                num_too_long += 1
                continue
            sources.append(encode_conversation(tokenizer, history, max_source_tokens))
            targets.append(target)
            replies.append(reply)
            histories.append(history)
    source_ids, source_ends = _flat(sources)
    target_ids, target_ends = _flat(targets)
    return EncodedExchanges(source_ids, source_ends, target_ids, target_ends, replies, histories, num_too_long)


def _flat(sequences: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    ends = np.cumsum([len(sequence) for sequence in sequences], dtype=np.int64)
    ids = np.fromiter((token for sequence in sequences for token in sequence), dtype=np.int32)
    return ids, ends


def plan_epoch(exchanges: EncodedExchanges, tokens_per_step: int, seed: int, epoch: int) -> list[np.ndarray]:
    """
    Return the steps of one epoch in their order, each as indices of exchanges sorted by length.

    Exchanges of like length share a step of about `tokens_per_step` source and target tokens. Which ones do, and the
    order of the steps, is drawn anew each epoch, from the seed and the epoch alone: the number of processes and of
    micro-batches has no part in it.
    """
    generator = np.random.default_rng((seed, epoch))
    chance = generator.permutation(len(exchanges))
    sources, targets = exchanges.source_lengths, exchanges.target_lengths
    # By target length, and within it by source length, up and down in turn, so that neighbours are always alike. The
    # last key sorts first.
    order = np.lexsort((chance, np.where(targets % 2, sources, -sources), targets))
    tokens = (sources + targets)[order].cumsum()
    # The same number of steps in every epoch, as the sorted lengths are the same.
    num_steps = max(1, round(tokens[-1] / tokens_per_step))
    ends = np.searchsorted(tokens, np.linspace(0, tokens[-1], num_steps + 1)[1:-1])
    # Batches of a few sizes only: hardware has, or compiles, its kernels by shape.
    ends = (ends + ROWS_OF_A_BATCH // 2) // ROWS_OF_A_BATCH * ROWS_OF_A_BATCH
    steps = [step for step in np.split(order, ends) if len(step)]
    return [steps[index] for index in generator.permutation(len(steps))]


def split_step(step: np.ndarray, num_parts: int) -> list[np.ndarray]:
    """Split a step into parts of like size and like lengths, for micro-batches and processes; parts may be empty."""
    return np.array_split(step, num_parts)


def collate(exchanges: EncodedExchanges, indices: np.ndarray, pad_token_id: int) -> dict[str, torch.Tensor]:
    """
    Return a batch of the exchanges at `indices`: input_ids and attention_mask, (B, S), and labels, (B, T).

    Without indices, a batch of one exchange that has no loss: where a step has fewer exchanges than processes, all
    processes still compute.
    """
    chosen = [int(index) for index in indices] or [0]
    sources = [exchanges.source(index) for index in chosen]
    targets = [exchanges.target(index) for index in chosen]
    input_ids = _padded(sources, pad_token_id)
    labels = _padded(targets, IGNORED)
    if not len(indices):
        labels.fill_(IGNORED)
    attention_mask = (torch.arange(input_ids.shape[1]) < torch.tensor([[len(ids)] for ids in sources])).long()
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def _padded(sequences: Sequence[np.ndarray], padding: int) -> torch.Tensor:
    padded = np.full((len(sequences), max(map(len, sequences))), padding, dtype=np.int64)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return torch.from_numpy(padded)


def padding_share(exchanges: EncodedExchanges, steps: Sequence[np.ndarray], num_parts: int) -> float:
    """Return the share of padding in the batches of an epoch, 0 to 1."""
    real = padded = 0
    sources, targets = exchanges.source_lengths, exchanges.target_lengths
    for step in steps:
        for part in split_step(step, num_parts):
            for lengths in (sources[part], targets[part]):
                if len(part):
                    real += int(lengths.sum())
                    padded += int(lengths.max()) * len(part)
    return 1 - real / padded
