"""
The decoder for one new token on a CPU, without modules.

Decoding one token on a CPU spends most of its time in module overhead. This file is the same arithmetic without it. It
is used only if every module is plain: in eval mode, on a CPU, without hooks, adapters or quantized weights.

Letters after a tensor's name are its axes: B batch, S source tokens, D d_model, V vocabulary, K keys, C channels of one
head, N batch times heads.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicLayer, EncoderDecoderCache

from .attention import CrossAttention, MaskedSelfAttention
from .decoder import Decoder, DecoderLayer
from .embedding import ScaledEmbedding, SinusoidalPositions
from .fast_products import HAS_ONEDNN, onednn_product
from .feed_forward import FeedForward
from .layer_stack import LayerStack
from .sparse_attention import MaskedSparseAttention, pattern_of

PLAIN_MODULES = frozenset(
    {
        *(Decoder, DecoderLayer, MaskedSelfAttention, MaskedSparseAttention, CrossAttention, FeedForward),
        *(ScaledEmbedding, SinusoidalPositions, nn.Linear, nn.LayerNorm, nn.Dropout, LayerStack),
    }
)
"""Modules whose arithmetic this file knows. A class that replaces one of these names it as its `evaluates_as`."""

LEAST_ONEDNN_WORK = 2**20
"""Multiplications of a product from which on oneDNN is faster than torch's own choice for any shape."""


def is_inference(model: Any) -> bool:
    """True if neither dropout nor gradients nor other precisions are asked for, and nothing is being compiled."""
    return not (
        model.training or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
    )


def has_more(module: nn.Module) -> bool:
    """True if a module does more than its class says."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


def is_plain(model: Any, decoder: Any, head: nn.Module, cache: EncoderDecoderCache) -> bool:
    """True if this decoder and output layer of a model compute what `NextToken` does, and nothing else."""
    caches = cache.self_attention_cache, cache.cross_attention_cache
    if (
        any(each.offloading or {type(layer) for layer in each.layers} != {DynamicLayer} for each in caches)
        or decoder.config._attn_implementation not in ("eager", "sdpa")
        or decoder.config.output_attentions
        or decoder.config.output_hidden_states
        or nn.modules.module._has_any_global_hook()
        # A compiled or wrapped model, such as accelerate's for mixed precision.
        or model._compiled_call_impl is not None
        or "forward" in model.__dict__
    ):
        return False
    plain_classes = {*PLAIN_MODULES, model.plain_model_class, type(decoder.layers[0].feed_forward.activation)}
    for module in (model.model, head, *decoder.modules()):
        kind = vars(type(module)).get("evaluates_as", type(module))
        if kind not in plain_classes or module.training or has_more(module):
            return False
        weights = [weight for weight in module._parameters.values() if weight is not None]
        if any(type(weight) is not nn.Parameter or weight.device.type != "cpu" for weight in weights):
            return False
    return True


class NextToken:
    """The decoder and the output layer for one new token of each reply, with their weights at hand."""

    def __init__(
        self,
        decoder: Any,
        head: Any,
        cache: EncoderDecoderCache,
        memory_BSD: Tensor,
        memory_mask_B11S: Tensor | None,
    ):
        """Project the source's keys and values into `cache`, unless it has them."""
        self.embedding, self.scale = decoder.embedding.weight, decoder.embedding.embed_scale
        self.positions = decoder.positions
        self.layers = [NextTokenLayer(layer, len(memory_BSD)) for layer in decoder.layers]
        self.output = product_with(head, len(memory_BSD))
        self.no_mask = self.memory_mask = decoder.embedding.weight.new_zeros(1)
        mask = memory_mask_B11S
        if mask is not None and mask.dtype == torch.bool:
            mask = self.no_mask.new_zeros(mask.shape).masked_fill(~mask, torch.finfo(self.no_mask.dtype).min)
        if mask is not None:
            self.memory_mask = mask.expand(-1, decoder.config.num_heads, -1, -1).flatten(0, 1)
        for layer in decoder.layers:
            layer.cross_attention.keys_and_values(memory_BSD, cache)

    def __call__(self, input_ids_B1: Tensor, cache: EncoderDecoderCache) -> Tensor:
        """Return the logits after `input_ids_B1`, (B, 1, V), and add these tokens to the cache."""
        own_layers: Any = cache.self_attention_cache.layers
        memory_layers = cache.cross_attention_cache.layers
        position = own_layers[0].get_seq_length()
        position_D = self.positions.extended_to(position + 1)[position]
        x_BD = torch.add(position_D, torch.embedding(self.embedding, input_ids_B1.squeeze(1)), alpha=self.scale)
        for layer, own, memory in zip(self.layers, own_layers, memory_layers, strict=True):
            x_BD = layer(x_BD, own, self.no_mask, memory, self.memory_mask)
        return self.output(x_BD).unsqueeze(1)


class NextTokenLayer:
    """A layer of the decoder, for one new token of each reply."""

    def __init__(self, layer: DecoderLayer, num_rows: int):
        own, cross, feed_forward = layer.self_attention, layer.cross_attention, layer.feed_forward
        self.own_products = [product_with(each, num_rows) for each in (own.query, own.key, own.value, own.output)]
        self.cross_products = [product_with(each, num_rows) for each in (cross.query, cross.output)]
        self.inner, self.outer = (product_with(each, num_rows) for each in (feed_forward.inner, feed_forward.output))
        self.activation = feed_forward.activation
        self.norms = [
            (norm.normalized_shape, norm.weight, norm.bias, norm.eps)
            for norm in (layer.self_attention_norm, layer.cross_attention_norm, layer.feed_forward_norm)
        ]
        self.scaling = own.scaling
        self.pattern = pattern_of(own.config, own.layer_index, is_causal=True)
        self.shape_BH1C = -1, own.num_heads, 1, own.config.d_model // own.num_heads

    def __call__(
        self, x_BD: Tensor, own_cache: Any, own_mask: Tensor, memory_cache: Any, memory_mask: Tensor
    ) -> Tensor:
        query, key, value, output = self.own_products
        keys_BHKC, values_BHKC = own_cache.update(key(x_BD).view(self.shape_BH1C), value(x_BD).view(self.shape_BH1C))
        # It makes each operation cheaper, and what it computes unfit for gradients: the cache is a caller's to use.
        with torch.inference_mode():
            if self.pattern is not None:
                keys_BHKC, values_BHKC = self.pattern.seen_by_last(keys_BHKC), self.pattern.seen_by_last(values_BHKC)
            attended_BD = attend(query(x_BD), keys_BHKC, values_BHKC, own_mask, self.scaling)
            x_BD = torch.layer_norm(x_BD + output(attended_BD), *self.norms[0])
            query, output = self.cross_products
            attended_BD = attend(query(x_BD), memory_cache.keys, memory_cache.values, memory_mask, self.scaling)
            x_BD = torch.layer_norm(x_BD + output(attended_BD), *self.norms[1])
            return torch.layer_norm(x_BD + self.outer(self.activation(self.inner(x_BD))), *self.norms[2])


def attend(query_BD: Tensor, keys_BHKC: Tensor, values_BHKC: Tensor, mask_N1K: Tensor, scaling: float) -> Tensor:
    """Equation 1 for one query of each head, (B, D), with `mask_N1K` added to the scores."""
    keys_NKC, values_NKC = keys_BHKC.flatten(0, 1), values_BHKC.flatten(0, 1)
    query_N1C = query_BD.view(keys_NKC.shape[0], 1, -1)
    weights_N1K = torch.baddbmm(mask_N1K, query_N1C, keys_NKC.transpose(1, 2), alpha=scaling).softmax(-1)
    return torch.bmm(weights_N1K, values_NKC).view_as(query_BD)


def product_with(linear: nn.Linear, num_rows: int) -> Callable[[Tensor], Tensor]:
    """The layer as a function of (B, D), by the library that is faster for `num_rows` rows."""
    weight, bias = linear.weight, linear.bias
    if weight.dtype == torch.float32 and num_rows * weight.numel() >= LEAST_ONEDNN_WORK and HAS_ONEDNN:
        return lambda x: onednn_product(x, weight, bias)
    transposed = weight.t()
    if bias is None:
        return lambda x: torch.mm(x, transposed)
    return lambda x: torch.addmm(bias, x, transposed)
