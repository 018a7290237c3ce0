"""
Embeddings and positions: Sections 3.4 and 3.5 of "Attention Is All You Need".

Letters behind a tensor's name are its axes: B batch, T time (tokens of a sequence), D d_model.
"""

import math

import torch
from torch import nn


class ScaledEmbedding(nn.Embedding):
    """Look up token vectors and multiply them by the square root of d_model (Section 3.4)."""

    @property
    def embed_scale(self):
        """The factor, under the name by which peft looks for it when it trains rows of an embedding."""
        return math.sqrt(self.embedding_dim)

    def forward(self, input_ids_BT):
        return super().forward(input_ids_BT) * self.embed_scale


def sinusoids(num_positions, d_model):
    """
    Return the table of Section 3.5, (num_positions, d_model), in float64.

    PE(pos, 2i) = sin(pos / 10000^(2i/d_model)) and PE(pos, 2i+1) = cos(pos / 10000^(2i/d_model)).
    """
    position = torch.arange(num_positions, dtype=torch.float64, device="cpu").unsqueeze(1)
    exponent = torch.arange(0, d_model, 2, dtype=torch.float64, device="cpu") / d_model
    angle = position / 10000**exponent
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)


class SinusoidalPositions(nn.Module):
    """
    Give each position its sines and cosines, for sequences of any length (Section 3.5).

    The table is computed in float64 on the CPU, so that far positions stay exact, and kept rounded to the model's
    precision. It is not saved: it follows from its shape.
    """

    def __init__(self, num_positions, d_model):
        super().__init__()
        # from_pretrained makes the model in its weights' precision, and says it only through torch's default.
        table = sinusoids(num_positions, d_model).to(torch.get_default_dtype())
        self.register_buffer("table", table, persistent=False)

    def forward(self, position_ids_BT, num_positions):
        """Return the vectors of `position_ids_BT`, all below `num_positions`: (B, T, D)."""
        if num_positions > self.table.shape[0]:
            # Doubled, so that generating token by token extends it seldom.
            self.table = sinusoids(2 * num_positions, self.table.shape[1]).to(self.table)
        return self.table[position_ids_BT]


def positions_of(mask_BT):
    """
    Return each token's position, counted without the padding on either side.

    mask_BT: 1 for tokens, 0 for padding. Padding gets position 0, which attention never looks at.
    """
    return (mask_BT.long().cumsum(-1) - 1).clamp(min=0)
