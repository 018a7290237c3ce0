"""
Attention: Section 3.2 of "Attention Is All You Need".

Letters after a tensor's name are its axes: B batch, Q queries, K keys and values, D d_model, H heads, C channels of one
head (d_k = d_v = d_model / H).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import EncoderDecoderCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_chatformer import ChatformerConfig


def attention(
    query_BHQC: Tensor, key_BHKC: Tensor, value_BHKC: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """
    Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V: Equation 1.

    `mask` broadcasts to (B, H, Q, K): True where a query may look, or numbers that are added to the scores. Returns
    the attended values, (B, H, Q, C), and the weights, (B, H, Q, K).
    """
    scores_BHQK = query_BHQC @ key_BHKC.transpose(-2, -1) * query_BHQC.shape[-1] ** -0.5
    if mask is not None and mask.dtype == torch.bool:
        scores_BHQK = scores_BHQK.masked_fill(~mask, torch.finfo(scores_BHQK.dtype).min)
    elif mask is not None:
        scores_BHQK = scores_BHQK + mask
    weights_BHQK = scores_BHQK.softmax(-1, dtype=torch.float32).to(value_BHKC.dtype)
    return nn.functional.dropout(weights_BHQK, dropout) @ value_BHKC, weights_BHQK


def eager_attention(
    module: nn.Module,
    query_BHQC: Tensor,
    key_BHKC: Tensor,
    value_BHKC: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """The function behind attn_implementation="eager": `attention`, called as transformers calls any attention."""
    attended_BHQC, weights_BHQK = attention(query_BHQC, key_BHKC, value_BHKC, attention_mask, dropout)
    return attended_BHQC.transpose(1, 2), weights_BHQK


EagerAttention = Callable[..., tuple[Tensor, Tensor]]
"""A function with the arguments and results of `eager_attention`."""


class MultiHeadAttention(nn.Module):
    """
    Several heads that attend at once: Section 3.2.2.

    MultiHead(Q, K, V) = Concat(head_1, ..., head_h) W^O with head_i = Attention(Q W_i^Q, K W_i^K, V W_i^V). In the
    encoder, queries, keys and values all come from the layer below.
    """

    is_causal = False

    def __init__(self, config: ChatformerConfig, layer_index: int):
        super().__init__()
        # The paper's formula, unless fast_training.py sets a function that computes the same faster.
        self.eager_attention: EagerAttention = eager_attention
        self.config = config
        self.layer_index = layer_index
        self.num_heads = config.num_heads
        self.dropout = config.attention_dropout
        self.scaling = (config.d_model // config.num_heads) ** -0.5
        self.query = nn.Linear(config.d_model, config.d_model)
        self.key = nn.Linear(config.d_model, config.d_model)
        self.value = nn.Linear(config.d_model, config.d_model)
        self.output = nn.Linear(config.d_model, config.d_model)

    def split_heads(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) to (B, H, T, C)."""
        return x_BTD.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def keys_and_values(self, memory_BKD: Tensor, cache: EncoderDecoderCache | None) -> tuple[Tensor, Tensor]:
        """The projections of the vectors that are attended to, each (B, H, K, C)."""
        return self.split_heads(self.key(memory_BKD)), self.split_heads(self.value(memory_BKD))

    def forward(
        self,
        x_BQD: Tensor,
        memory_BKD: Tensor,
        mask: Any,
        cache: EncoderDecoderCache | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """
        Attend from each vector of `x_BQD` to those of `memory_BKD` that `mask` allows.

        `cache` is the cache of a generation. Returns the result, (B, Q, D), and the weights, (B, H, Q, K), or None if
        the attention in use does not keep its weights.
        """
        query_BHQC = self.split_heads(self.query(x_BQD))
        key_BHKC, value_BHKC = self.keys_and_values(memory_BKD, cache)
        attended_BQHC, weights_BHQK = self.attend(query_BHQC, key_BHKC, value_BHKC, mask, output_attentions)
        return self.output(attended_BQHC.flatten(2)), weights_BHQK

    def attend(
        self,
        query_BHQC: Tensor,
        key_BHKC: Tensor,
        value_BHKC: Tensor,
        mask: Any,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The heads, (B, Q, H, C), by the attention in use, and its weights, (B, H, Q, K), if it keeps them."""
        # Only the eager attention returns its weights.
        implementation = "eager" if output_attentions else self.config._attn_implementation
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, self.eager_attention)
        return attend(
            self,
            query_BHQC,
            key_BHKC,
            value_BHKC,
            mask,
            dropout=self.dropout if self.training else 0.0,
            scaling=self.scaling,
        )


class MaskedSelfAttention(MultiHeadAttention):
    """
    The decoder's self-attention: the future is masked (Section 3.2.3, third point).

    In a generation, the cache keeps the keys and values of earlier tokens, and only the new token's are computed.
    """

    is_causal = True

    def keys_and_values(self, memory_BKD: Tensor, cache: EncoderDecoderCache | None) -> tuple[Tensor, Tensor]:
        key_BHKC, value_BHKC = super().keys_and_values(memory_BKD, cache)
        if cache is None:
            return key_BHKC, value_BHKC
        return cache.self_attention_cache.update(key_BHKC, value_BHKC, self.layer_index)


class CrossAttention(MultiHeadAttention):
    """
    Attention from the decoder to the encoder's output (Section 3.2.3, first point).

    In a generation, the keys and values of the source are computed once, at the first token.
    """

    def keys_and_values(self, memory_BKD: Tensor, cache: EncoderDecoderCache | None) -> tuple[Tensor, Tensor]:
        if cache is None:
            return super().keys_and_values(memory_BKD, cache)
        if cache.is_updated.get(self.layer_index):
            layer: Any = cache.cross_attention_cache.layers[self.layer_index]
            return layer.keys, layer.values
        cache.is_updated[self.layer_index] = True
        return cache.cross_attention_cache.update(*super().keys_and_values(memory_BKD, cache), self.layer_index)
