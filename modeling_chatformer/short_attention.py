"""
Attention between short sequences that lie one after the other, on GPUs, in Triton.

Kernels for long sequences take 64 or 128 tokens of one sequence at a time, most of which a sentence does not have.
Here each head of each sequence is one small tile, whose scores never leave the chip: the forward pass writes nothing
but its result, and the backward pass computes the scores again. Letters after a tensor's name are its axes: Q queries
and K keys of all sequences, H heads, C channels of one head.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

LONGEST = 64
"""Tokens of the longest sequence that fits into a tile."""


@triton.jit
def load_heads(x, first, length, head, H: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr):
    """One head of one sequence, (BLOCK, C), with zeros behind its end."""
    row = tl.arange(0, BLOCK)
    place = ((first + row).to(tl.int64)[:, None] * H + head) * C + tl.arange(0, C)[None, :]
    return tl.load(x + place, mask=(row < length)[:, None], other=0.0)


@triton.jit
def store_heads(x, y, first, length, head, H: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr):
    """Write (BLOCK, C) where `load_heads` reads."""
    row = tl.arange(0, BLOCK)
    place = ((first + row).to(tl.int64)[:, None] * H + head) * C + tl.arange(0, C)[None, :]
    tl.store(x + place, y.to(x.dtype.element_ty), mask=(row < length)[:, None])


@triton.jit
def weights_of(q, k, num_keys, scaling, IS_CAUSAL: tl.constexpr, Q: tl.constexpr, K: tl.constexpr):
    """softmax(q k^T * scaling) in float32, for one head of one sequence."""
    query, key = tl.arange(0, Q)[:, None], tl.arange(0, K)[None, :]
    visible = key < num_keys
    if IS_CAUSAL:
        visible = visible & (key <= query)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scaling
    scores = tl.where(visible, scores, float("-inf"))
    powers = tl.exp(scores - tl.max(scores, 1)[:, None])
    return powers / tl.sum(powers, 1)[:, None]


@triton.jit
def forward_kernel(
    query_QHC,
    key_KHC,
    value_KHC,
    attended_QHC,
    query_starts,
    key_starts,
    scaling,
    H: tl.constexpr,
    C: tl.constexpr,
    IS_CAUSAL: tl.constexpr,
    Q: tl.constexpr,
    K: tl.constexpr,
):
    sequence, head = tl.program_id(0), tl.program_id(1)
    first_query, first_key = tl.load(query_starts + sequence), tl.load(key_starts + sequence)
    num_queries = tl.load(query_starts + sequence + 1) - first_query
    num_keys = tl.load(key_starts + sequence + 1) - first_key
    q = load_heads(query_QHC, first_query, num_queries, head, H, C, Q)
    k = load_heads(key_KHC, first_key, num_keys, head, H, C, K)
    v = load_heads(value_KHC, first_key, num_keys, head, H, C, K)
    weights = weights_of(q, k, num_keys, scaling, IS_CAUSAL, Q, K)
    attended = tl.dot(weights.to(v.dtype), v, input_precision="ieee")
    store_heads(attended_QHC, attended, first_query, num_queries, head, H, C, Q)


@triton.jit
def backward_kernel(
    gradient_QHC,
    query_QHC,
    key_KHC,
    value_KHC,
    query_gradient_QHC,
    key_gradient_KHC,
    value_gradient_KHC,
    query_starts,
    key_starts,
    scaling,
    H: tl.constexpr,
    C: tl.constexpr,
    IS_CAUSAL: tl.constexpr,
    Q: tl.constexpr,
    K: tl.constexpr,
):
    sequence, head = tl.program_id(0), tl.program_id(1)
    first_query, first_key = tl.load(query_starts + sequence), tl.load(key_starts + sequence)
    num_queries = tl.load(query_starts + sequence + 1) - first_query
    num_keys = tl.load(key_starts + sequence + 1) - first_key
    gradient = load_heads(gradient_QHC, first_query, num_queries, head, H, C, Q)
    q = load_heads(query_QHC, first_query, num_queries, head, H, C, Q)
    k = load_heads(key_KHC, first_key, num_keys, head, H, C, K)
    v = load_heads(value_KHC, first_key, num_keys, head, H, C, K)
    weights = weights_of(q, k, num_keys, scaling, IS_CAUSAL, Q, K)
    # Behind the end of the queries `gradient` is 0, and so is what comes of it.
    value_gradient = tl.dot(tl.trans(weights.to(v.dtype)), gradient, input_precision="ieee")
    weights_gradient = tl.dot(gradient, tl.trans(v), input_precision="ieee")
    scores_gradient = weights * (weights_gradient - tl.sum(weights * weights_gradient, 1)[:, None]) * scaling
    scores_gradient = scores_gradient.to(q.dtype)
    query_gradient = tl.dot(scores_gradient, k, input_precision="ieee")
    key_gradient = tl.dot(tl.trans(scores_gradient), q, input_precision="ieee")
    store_heads(query_gradient_QHC, query_gradient, first_query, num_queries, head, H, C, Q)
    store_heads(key_gradient_KHC, key_gradient, first_key, num_keys, head, H, C, K)
    store_heads(value_gradient_KHC, value_gradient, first_key, num_keys, head, H, C, K)


def launch(kernel: Any, tensors: list[Tensor], starts: list[Tensor], scaling: float, is_causal: bool) -> None:
    """Run a kernel for each head of each sequence."""
    _, H, C = tensors[0].shape
    # Four warps for a tile of 64 x 64. One size of tile for all lengths: choosing one would compile layers anew.
    kernel[len(starts[0]) - 1, H](*tensors, *starts, scaling, H, C, is_causal, LONGEST, LONGEST, num_warps=4)


@torch.library.custom_op("chatformer::short_attention", mutates_args=())
def short_attention(
    query_QHC: Tensor,
    key_KHC: Tensor,
    value_KHC: Tensor,
    query_starts: Tensor,
    key_starts: Tensor,
    scaling: float,
    is_causal: bool,
) -> Tensor:
    """
    softmax(Q K^T * scaling) V of each sequence, (Q, H, C): Equation 1 of the paper.

    Sequence i has the queries from `query_starts[i]` to `query_starts[i + 1]`, and at least one key, likewise, unless
    it has no queries, and at most `LONGEST` of both. C is a power of two from 16 on. `is_causal` hides the keys behind
    each query. For torch.compile it is one piece: the compiler's own launch of the kernel is five times as slow.
    """
    attended_QHC = query_QHC.new_empty(query_QHC.shape)
    tensors = [query_QHC.contiguous(), key_KHC.contiguous(), value_KHC.contiguous(), attended_QHC]
    launch(forward_kernel, tensors, [query_starts, key_starts], scaling, is_causal)
    return attended_QHC


@torch.library.custom_op("chatformer::short_attention_gradients", mutates_args=())
def short_attention_gradients(
    gradient_QHC: Tensor,
    query_QHC: Tensor,
    key_KHC: Tensor,
    value_KHC: Tensor,
    query_starts: Tensor,
    key_starts: Tensor,
    scaling: float,
    is_causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of queries, keys and values."""
    inputs = [query_QHC, key_KHC, value_KHC]
    gradients = [x.new_empty(x.shape) for x in inputs]
    tensors = [x.contiguous() for x in (gradient_QHC, *inputs)] + gradients
    launch(backward_kernel, tensors, [query_starts, key_starts], scaling, is_causal)
    return gradients[0], gradients[1], gradients[2]


@short_attention.register_fake
def _(query_QHC: Tensor, *_: Any) -> Tensor:
    return query_QHC.new_empty(query_QHC.shape)


@short_attention_gradients.register_fake
def _(_: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in inputs[:3])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.scaling, ctx.is_causal = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, gradient_QHC: Tensor) -> tuple[Tensor | None, ...]:
    gradients = short_attention_gradients(gradient_QHC, *ctx.saved_tensors, ctx.scaling, ctx.is_causal)
    return *gradients, None, None, None, None


short_attention.register_autograd(_backward, setup_context=_keep)
