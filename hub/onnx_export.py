"""
Chatformer in ONNX: two graphs that any ONNX runtime executes, for batches and lengths of any size.

`encoder.onnx` reads the source once and gives the keys and values that each decoder layer attends to. `decoder.onnx`
reads the next target tokens with the keys and values of all earlier ones, at first none, and gives the logits and the
keys and values from then on. Letters behind a tensor's name are its axes: B batch, S source tokens, T new target
tokens, P earlier ones, H heads, C channels of one head.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn
from torch.export import Dim

from chatformer.embedding import sinusoids

from .comparison import Reply, greedy_reply
from .errors import HubError, first_line

ENCODER_FILE, DECODER_FILE = "encoder.onnx", "decoder.onnx"

OPSET = 20

MIN_POSITIONS = 2048
"""A graph's positions end where its table does; ours go on."""


class PositionTable(nn.Module):
    """Positions from a table that does not grow, in place of `SinusoidalPositions`."""

    def __init__(self, config: Any):
        super().__init__()
        num_positions = max(config.max_position_embeddings, MIN_POSITIONS)
        self.register_buffer("table", sinusoids(num_positions, config.d_model).float())

    def forward(self, position_ids_BT: torch.Tensor) -> torch.Tensor:
        return self.table[position_ids_BT]


class EncoderGraph(nn.Module):
    """The encoder, and what cross-attention makes of its output."""

    def __init__(self, model: Any):
        super().__init__()
        self.encoder = model.model.encoder
        self.cross_attentions = nn.ModuleList(layer.cross_attention for layer in model.model.decoder.layers)
        self.positions = PositionTable(model.config)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> list[torch.Tensor]:
        """(B, S) and (B, S) to keys and values, each (B, H, S, C), of each decoder layer in turn."""
        # Tokens count from the first that is no padding, as in the model.
        position_ids_BS = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        x_BSD = self.encoder.embedding(input_ids) + self.positions(position_ids_BS)
        mask_B11S = attention_mask.bool()[:, None, None]
        for layer in self.encoder.layers:
            x_BSD, _ = layer(x_BSD, mask_B11S)
        return [
            tensor for attention in self.cross_attentions for tensor in attention.keys_and_values(x_BSD, None)
        ]


class GraphCache:
    """The part of an `EncoderDecoderCache` that attention uses, on tensors that are a graph's inputs."""

    def __init__(self, memory: Sequence[torch.Tensor], past: Sequence[torch.Tensor]):
        pairs = [_Pair(*memory[index : index + 2]) for index in range(0, len(memory), 2)]
