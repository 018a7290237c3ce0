"""
From ids to tensors: sequences as rows, padded to the longest.

Letters after a tensor's name are its axes: B batch, T tokens.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def padded(sequences: Sequence[Sequence[int] | np.ndarray], padding: int) -> Tensor:
    """The sequences as rows, (B, T), filled up with `padding` on the right."""
    rows_BT = np.full((len(sequences), max(map(len, sequences))), padding, dtype=np.int64)
    for row, sequence in zip(rows_BT, sequences, strict=True):
        row[: len(sequence)] = sequence
    return torch.from_numpy(rows_BT)


def padded_sources(sources: Sequence[Sequence[int] | np.ndarray], pad_token_id: int | None = None) -> dict[str, Tensor]:
    """
    Sources as the model reads them: input_ids, (B, T), and attention_mask, (B, T), 1 for tokens and 0 for padding.

    Any id can pad, since the mask hides it.
    """
    input_ids_BT = padded(sources, pad_token_id or 0)
    return {"input_ids": input_ids_BT, "attention_mask": mask_of([len(source) for source in sources])}


def mask_of(lengths: Sequence[int] | np.ndarray) -> Tensor:
    """1 for tokens and 0 for padding behind them, (B, T), for the lengths of B sequences."""
    lengths_B1 = torch.as_tensor(lengths)[:, None]
    return (torch.arange(int(lengths_B1.max())) < lengths_B1).long()
