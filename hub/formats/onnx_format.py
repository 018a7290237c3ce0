"""
Chatformer in ONNX: two graphs that any ONNX runtime executes, for batches and lengths of any size.

`encoder.onnx` reads the source once and returns the keys and values that each decoder layer attends to. `decoder.onnx`
reads the next target tokens and the keys and values of all earlier ones, at first none, and returns the logits and the
extended keys and values. Letters behind a tensor's name are its axes: B batch, S source tokens, T new target
tokens, P earlier ones, H heads, C channels of one head.
"""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn
from torch.export import Dim
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from chatformer.embedding import sinusoids
from chatformer.storage.names import ONNX_DECODER_FILE, ONNX_ENCODER_FILE

from .limits import num_positions
from .parity import Reply, greedy_reply

OPSET = 20


class PositionTable(nn.Module):
    """`SinusoidalPositions` with a table of fixed length."""

    table: torch.Tensor

    def __init__(self, config: Any):
        super().__init__()
        self.register_buffer("table", sinusoids(num_positions(config), config.d_model).float())

    def forward(self, position_ids_BT: torch.Tensor) -> torch.Tensor:
        return self.table[position_ids_BT]


class EncoderGraph(nn.Module):
    """The encoder, and the keys and values of its output for each cross-attention."""

    def __init__(self, model: Any):
        super().__init__()
        self.encoder = model.model.encoder
        self.cross_attentions: Any = nn.ModuleList(layer.cross_attention for layer in model.model.decoder.layers)
        self.positions = PositionTable(model.config)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> list[torch.Tensor]:
        """(B, S) and (B, S) to keys and values, each (B, H, S, C), of each decoder layer in turn."""
        # Positions count from the first token that is not padding, as in the model.
        position_ids_BS = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        x_BSD = self.encoder.embedding(input_ids) + self.positions(position_ids_BS)
        mask_B11S = attention_mask.bool()[:, None, None]
        for layer in self.encoder.layers:
            x_BSD, _ = layer(x_BSD, mask_B11S)
        return [tensor for attention in self.cross_attentions for tensor in attention.keys_and_values(x_BSD, None)]


def filled_cache(keys_and_values: Sequence[torch.Tensor]) -> DynamicCache:
    """A cache of the keys and values of each layer in turn."""
    cache = DynamicCache()
    for index in range(len(keys_and_values) // 2):
        cache.update(keys_and_values[2 * index], keys_and_values[2 * index + 1], index)
    return cache


class DecoderGraph(nn.Module):
    """The decoder and the output layer, for the next target tokens after any number of earlier ones."""

    def __init__(self, model: Any):
        super().__init__()
        self.decoder = model.model.decoder
        self.lm_head = model.lm_head
        self.positions = PositionTable(model.config)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        memory: Sequence[torch.Tensor],
        past: Sequence[torch.Tensor],
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """
        (B, T) and the source's mask, (B, S), to logits, (B, T, V), and the keys and values up to now.

        memory: each (B, H, S, C), and past: each (B, H, P, C), keys and values of each layer in turn.
        """
        num_new, num_earlier = input_ids.shape[1], past[0].shape[2]
        position_T = torch.arange(num_new) + num_earlier
        x_BTD = self.decoder.embedding(input_ids) + self.positions(position_T)[None]
        mask_TK = torch.arange(num_earlier + num_new)[None] <= position_T[:, None]
        cache: Any = EncoderDecoderCache(filled_cache(past), filled_cache(memory))
        for layer in self.decoder.layers:
            # If weights are asked for, the attention is our own, Equation 1, whichever the model uses otherwise.
            x_BTD, _, _ = layer(
                x_BTD, mask_TK, None, attention_mask.bool()[:, None, None], cache, output_attentions=True
            )
        present = [tensor for layer in cache.self_attention_cache.layers for tensor in (layer.keys, layer.values)]
        return self.lm_head(x_BTD), present


def names(kind: str, num_layers: int) -> list[str]:
    """The names of the keys and values of each layer in a graph."""
    return [f"{kind}_{part}_{index}" for index in range(num_layers) for part in ("keys", "values")]


@torch.inference_mode()
def write_onnx(model: Any, folder: Path) -> None:
    """Write both graphs, in float32."""
    encoder, decoder = EncoderGraph(model).eval(), DecoderGraph(model).eval()
    batch, source, target, earlier = Dim("batch"), Dim("source"), Dim("target"), Dim("earlier")
    # Equal sizes, or a size of 1, would become constants of the graph.
    input_ids, attention_mask = torch.zeros(2, 5, dtype=torch.long), torch.ones(2, 5, dtype=torch.long)
    memory = encoder(input_ids, attention_mask)
    past = [tensor[:, :, :3] for tensor in memory]
    num_layers = model.config.decoder_layers
    write_graph(
        encoder,
        (input_ids, attention_mask),
        folder / ONNX_ENCODER_FILE,
        input_names=["input_ids", "attention_mask"],
        output_names=names("memory", num_layers),
        dynamic_shapes=({0: batch, 1: source}, {0: batch, 1: source}),
    )
    write_graph(
        decoder,
        (torch.zeros(2, 4, dtype=torch.long), attention_mask, memory, past),
        folder / ONNX_DECODER_FILE,
        input_names=["input_ids", "attention_mask", *names("memory", num_layers), *names("past", num_layers)],
        output_names=["logits", *names("present", num_layers)],
        dynamic_shapes=(
            {0: batch, 1: target},
            {0: batch, 1: source},
            [{0: batch, 2: source}] * len(memory),
            [{0: batch, 2: earlier}] * len(past),
        ),
    )


def write_graph(graph: nn.Module, example: tuple[Any, ...], path: Path, **names_and_shapes: Any) -> None:
    """Write the graph of a module, traced with an example, for all shapes."""
    # It warns of packages that other models need, and of axes that have a name already.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            graph, example, dynamo=True, opset_version=OPSET, verbose=False, **names_and_shapes
        )
    program.save(path, external_data=False)


def onnx_replies(folder: Path, config: Any, sources: Sequence[Sequence[int]]) -> list[Reply]:
    """The greedy replies of the written graphs, to one source at a time."""
    encoder, decoder = (session(folder / name) for name in (ONNX_ENCODER_FILE, ONNX_DECODER_FILE))
    return [onnx_reply(encoder, decoder, config, source) for source in sources]


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def onnx_reply(encoder: Any, decoder: Any, config: Any, source: Sequence[int]) -> Reply:
    num_layers = config.decoder_layers
    mask = np.ones((1, len(source)), dtype=np.int64)
    memory = encoder.run(None, {"input_ids": np.array([source]), "attention_mask": mask})
    none = np.zeros((1, config.num_heads, 0, config.d_model // config.num_heads), dtype=np.float32)
    past = [none] * (2 * num_layers)

    def step(token: int) -> torch.Tensor:
        nonlocal past
        logits, *past = decoder.run(
            None,
            {
                "input_ids": np.array([[token]]),
                "attention_mask": mask,
                **dict(zip(names("memory", num_layers), memory, strict=True)),
                **dict(zip(names("past", num_layers), past, strict=True)),
            },
        )
        return torch.from_numpy(logits[0, -1])

    return greedy_reply(config, step)
