"""
Embeddings and positions: Sections 3.4 and 3.5 of "Attention Is All You Need".

Letters after a tensor's name are its axes: B batch, T time (tokens of a sequence), D d_model, P positions.
"""

import math

import torch
from torch import Tensor, nn


class ScaledEmbedding(nn.Embedding):
    """Token vectors times the square root of d_model (Section 3.4)."""

    @property
    def embed_scale(self) -> float:
        """The factor, under the name that peft looks for when it trains rows of an embedding."""
        return math.sqrt(self.embedding_dim)

    def forward(self, input_ids_BT: Tensor) -> Tensor:
        return super().forward(input_ids_BT) * self.embed_scale


def sinusoids(num_positions: int, d_model: int) -> Tensor:
    """
    The table of Section 3.5, (num_positions, d_model), in float64.

    PE(pos, 2i) = sin(pos / 10000^(2i/d_model)) and PE(pos, 2i+1) = cos(pos / 10000^(2i/d_model)).
    """
    position = torch.arange(num_positions, dtype=torch.float64, device="cpu").unsqueeze(1)
    exponent = torch.arange(0, d_model, 2, dtype=torch.float64, device="cpu") / d_model
    angle = position / 10000**exponent
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)


class SinusoidalPositions(nn.Module):
    """
    The sines and cosines of each position, for sequences of any length (Section 3.5).

    The table is computed in float64 on the CPU, so that far positions stay exact, and kept in the model's precision.
    It is not saved: its shape determines it.
    """

    table: Tensor

    def __init__(self, num_positions: int, d_model: int):
        super().__init__()
        # from_pretrained makes the model in the precision of its weights, which only torch's default dtype shows.
        table = sinusoids(num_positions, d_model).to(torch.get_default_dtype())
        self.register_buffer("table", table, persistent=False)

    def extended_to(self, num_positions: int) -> Tensor:
        """The table, (P, D), with at least `num_positions` rows."""
        if num_positions > self.table.shape[0]:
            # Twice as many, so that generating token by token seldom extends the table.
            self.table = sinusoids(2 * num_positions, self.table.shape[1]).to(self.table)
        return self.table

    def forward(self, position_ids_BT: Tensor, num_positions: int) -> Tensor:
        """The vectors, (B, T, D), of `position_ids_BT`, which are all below `num_positions`."""
        return self.extended_to(num_positions)[position_ids_BT]


def positions_of(mask_BT: Tensor) -> Tensor:
    """
    The position of each token, (B, T), counted without the padding on either side.

    mask_BT: 1 for tokens, 0 for padding. Padding gets position 0, which attention never looks at.
    """
    return (mask_BT.long().cumsum(-1) - 1).clamp(min=0)
