"""Layers, one upon the other: Section 3.1 of "Attention Is All You Need"."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


class LayerStack(nn.ModuleList):
    """Identical layers in a row, in the encoder and in the decoder."""

    def forward(
        self, x_BTD: Tensor, masks: Sequence[Any], *inputs: Any, output_hidden_states: bool = False, **options: Any
    ) -> tuple[Tensor, tuple[Tensor, ...] | None, list[tuple[Tensor | None, ...]]]:
        """
        Send `x_BTD` through the layers, which take the `masks` in turn, and the other inputs and options.

        Returns the result, (B, T, D); if they are asked for, the vectors before the first layer and after each; and
        for each layer the weights of its attentions.
        """
        hidden_states, attentions = [x_BTD], []
        for index, layer in enumerate(self):
            # Not by itertools.cycle, which torch 2.9 cannot compile.
            x_BTD, *weights = layer(x_BTD, masks[index % len(masks)], *inputs, **options)
            hidden_states.append(x_BTD)
            attentions.append(tuple(weights))
        return x_BTD, tuple(hidden_states) if output_hidden_states else None, attentions
