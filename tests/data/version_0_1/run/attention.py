"""
Attention: Section 3.2 of "Attention Is All You Need".

Letters behind a tensor's name are its axes: B batch, Q queries, K keys and values, D d_model, H heads, C channels of
one head (d_k = d_v = d_model / H).
"""

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def scaled_dot_product_attention(
    module, query_BHQC, key_BHKC, value_BHKC, attention_mask, scaling, dropout=0.0, **kwargs
):
    """
    Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V: Equation 1, the attention called "eager".

    attention_mask broadcasts to (B, H, Q, K): either True where a query may look, or numbers to add to the scores.
    Returns the attended values, (B, Q, H, C), and the weights, (B, H, Q, K).
    """
    scores_BHQK = query_BHQC @ key_BHKC.transpose(-2, -1) * scaling
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            scores_BHQK = scores_BHQK.masked_fill(~attention_mask, torch.finfo(scores_BHQK.dtype).min)
        else:
            scores_BHQK = scores_BHQK + attention_mask
    weights_BHQK = scores_BHQK.softmax(-1, dtype=torch.float32).to(value_BHKC.dtype)
    dropped_BHQK = nn.functional.dropout(weights_BHQK, dropout, training=module.training)
    return (dropped_BHQK @ value_BHKC).transpose(1, 2), weights_BHQK


class MultiHeadAttention(nn.Module):
    """
    Attend with several heads at once: Section 3.2.2.

    MultiHead(Q, K, V) = Concat(head_1, ..., head_h) W^O with head_i = Attention(Q W_i^Q, K W_i^K, V W_i^V). In the
    encoder queries, keys and values all come from the layer below.
    """

    is_causal = False
    # What runs as the attention called "eager".
    eager_attention = staticmethod(scaled_dot_product_attention)

    def __init__(self, config, layer_index):
        super().__init__()
        self.config = config
        self.layer_index = layer_index
        self.num_heads = config.num_heads
        self.dropout = config.attention_dropout
        self.scaling = (config.d_model // config.num_heads) ** -0.5
        self.query = nn.Linear(config.d_model, config.d_model)
        self.key = nn.Linear(config.d_model, config.d_model)
        self.value = nn.Linear(config.d_model, config.d_model)
        self.output = nn.Linear(config.d_model, config.d_model)

    def split_heads(self, x_BTD):
        """(B, T, D) to (B, H, T, C)."""
        return x_BTD.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def keys_and_values(self, source_BKD, cache):
        """Project what is attended to: two tensors, (B, H, K, C)."""
        return self.split_heads(self.key(source_BKD)), self.split_heads(self.value(source_BKD))

    def forward(self, x_BQD, source_BKD, mask, cache=None, output_attentions=False):
        """
        Let each vector of `x_BQD` look at those of `source_BKD` that `mask` allows.

        `cache` is the `EncoderDecoderCache` of a generation. Returns the result, (B, Q, D), and the weights,
        (B, H, Q, K), or None where the attention in use does not keep them.
        """
        query_BHQC = self.split_heads(self.query(x_BQD))
        key_BHKC, value_BHKC = self.keys_and_values(source_BKD, cache)
        # Only the eager attention has weights to show.
        implementation = "eager" if output_attentions else self.config._attn_implementation
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, self.eager_attention)
        attended_BQHC, weights_BHQK = attend(
            self,
            query_BHQC,
            key_BHKC,
            value_BHKC,
            mask,
            dropout=self.dropout if self.training else 0.0,
            scaling=self.scaling,
        )
        return self.output(attended_BQHC.flatten(2)), weights_BHQK


class MaskedSelfAttention(MultiHeadAttention):
    """
    The decoder's self-attention: the future is masked (Section 3.2.3, third point).

    While generating, the keys and values of earlier tokens are kept, and only the new token's are computed.
    """

    is_causal = True

    def keys_and_values(self, source_BKD, cache):
        key_BHKC, value_BHKC = super().keys_and_values(source_BKD, cache)
        if cache is None:
            return key_BHKC, value_BHKC
        return cache.self_attention_cache.update(key_BHKC, value_BHKC, self.layer_index)


class CrossAttention(MultiHeadAttention):
    """
    Attention from the decoder to the encoder's output (Section 3.2.3, first point).

    While generating, the source's keys and values are computed once, at the first token.
    """

    def keys_and_values(self, source_BKD, cache):
        if cache is None:
            return super().keys_and_values(source_BKD, cache)
        if cache.is_updated.get(self.layer_index):
            layer = cache.cross_attention_cache.layers[self.layer_index]
            return layer.keys, layer.values
        cache.is_updated[self.layer_index] = True
        return cache.cross_attention_cache.update(*super().keys_and_values(source_BKD, cache), self.layer_index)
