"""Faster parts of a model for training on CPUs. Except for rounding, they compute the same."""

import functools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .attention import EagerAttention, MultiHeadAttention, eager_attention
from .decoder import Decoder
from .encoder import Encoder
from .fast_packing import PackedMask, PackedStack, show_padding
from .fast_products import HAS_ONEDNN, onednn_product, round_number
from .seq2seq import ConditionalGenerationMixin


def speed_up(model: nn.Module) -> None:
    """Replace the parts of a model by faster ones, with the same weights. What is saved of the model stays the same."""
    if isinstance(model, ConditionalGenerationMixin):
        model.register_forward_pre_hook(show_padding, with_kwargs=True)
    for module in list(model.modules()):
        if isinstance(module, Encoder | Decoder):
            layers = PackedStack(module.layers, module.config.num_heads, is_wide=module.config.d_model >= LEAST_WIDTH)
            module.layers = layers.train(module.training)
        if isinstance(module, MultiHeadAttention):
            module.eager_attention = packed_attention
        for name, part in module.named_children():
            if type(part) is nn.Dropout:
                setattr(module, name, CheapDropout(part.p).train(part.training))
            elif type(part) is nn.Linear and HAS_ONEDNN:
                setattr(module, name, OneDnnLinear.with_weights_of(part))


LEAST_WIDTH = 256
"""Rows and columns of a weight from which on its float32 products are large enough for oneDNN, which has more to look
up for each than torch's own choice. Products in bfloat16 are always oneDNN's."""


class CheapDropout(nn.Dropout):
    """Dropout that draws 16 random bits for an element; torch draws 32, and compares them one by one."""

    evaluates_as = nn.Dropout

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.p):
            return x
        bound = round(self.p * 2**16)
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        # 1 and 0 in 16 bits: torch converts booleans one by one.
        keep = words.view(torch.int16)[: x.numel()].view(x.shape).ge_(bound - 2**15)
        return x * keep.to(x.dtype).mul_(2**16 / (2**16 - bound))


class OneDnnLinear(nn.Linear):
    """A linear layer of which oneDNN computes large float32 products, too, and all of its products in few shapes."""

    evaluates_as = nn.Linear

    @classmethod
    def with_weights_of(cls, linear: nn.Linear) -> "OneDnnLinear":
        layer = cls(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        layer.weight, layer.bias = linear.weight, linear.bias
        return layer.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        is_float32 = x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        # oneDNN refuses empty matrices.
        if not x.numel() or (is_float32 and min(self.weight.shape) < LEAST_WIDTH):
            return super().forward(x)
        num_rows = x.shape[:-1].numel()
        x_NI = x.flatten(0, -2)
        missing = round_number(num_rows) - num_rows
        if missing:
            x_NI = nn.functional.pad(x_NI, (0, 0, 0, missing))
        y_NO = OneDnnProduct.apply(x_NI, self.weight, self.bias) if is_float32 else super().forward(x_NI)
        return y_NO[:num_rows].unflatten(0, x.shape[:-1])


class OneDnnProduct(torch.autograd.Function):
    """x W^T + b by oneDNN, for x, (N, I), W, (O, I), and b, (O,) or None."""

    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_NI, weight_OI)
        return onednn_product(x_NI, weight_OI, bias_O)

    @staticmethod
    def backward(ctx: Any, gradient_NO: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, weight_OI = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        weight_gradient = None
        if needs_weight and weight_OI.shape[0] > weight_OI.shape[1]:
            # oneDNN divides the columns among the threads.
            weight_gradient = onednn_product(x_NI.T, gradient_NO.T).T
        elif needs_weight:
            weight_gradient = onednn_product(gradient_NO.T, x_NI.T)
        return (
            onednn_product(gradient_NO, weight_OI.T) if needs_x else None,
            weight_gradient,
            gradient_NO.sum(0) if needs_bias else None,
        )


SHORT_ROW = 16
"""Columns below which torch's softmax of the last axis takes five times as long: it needs full registers."""

LEAST_EXPONENT = -87.0
"""Below it, a power of e is no normal number of float32, and torch takes eight times as long to compute it."""


def softmax(x: Tensor) -> Tensor:
    """The softmax of the last axis of x, in float32; x is overwritten."""
    if x.shape[-1] >= SHORT_ROW:
        return x.softmax(-1)
    powers = x.sub_(x.amax(-1, keepdim=True)).clamp_(min=LEAST_EXPONENT).exp_()
    # What is masked keeps no weight at all.
    nn.functional.threshold(powers, 2 * math.exp(LEAST_EXPONENT), 0.0, inplace=True)
    return powers.div_(powers.sum(-1, keepdim=True))


def softmax_backward(gradient: Tensor, output: Tensor) -> Tensor:
    """The gradient of the input of a softmax, from `output` and its gradient, which is overwritten."""
    if output.shape[-1] >= SHORT_ROW:
        return torch._softmax_backward_data(gradient, output, -1, torch.float32)
    gradient.mul_(output)
    return gradient.addcmul_(output, gradient.sum(-1, keepdim=True), value=-1)


def packed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, dropout: float = 0.0, **options: Any
) -> tuple[Tensor, Tensor]:
    """`cheap_attention`, also for packed queries and keys."""
    attend: EagerAttention = functools.partial(cheap_attention, module, dropout=dropout, **options)
    if isinstance(mask, PackedMask):
        return mask.attend(attend, query, key, value)
    return attend(query, key, value, mask)


# The decoder without modules may do without it.
packed_attention.evaluates_as = eager_attention  # type: ignore[attr-defined]


def cheap_attention(
    module: nn.Module,
    query_BHQC: Tensor,
    key_BHKC: Tensor,
    value_BHKC: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """`eager_attention`, but faster to train on sequences of few tokens."""
    if dropout or not query_BHQC.requires_grad or (attention_mask is not None and attention_mask.dtype == torch.bool):
        return eager_attention(module, query_BHQC, key_BHKC, value_BHKC, attention_mask, dropout, **options)
    attended_BHQC, weights_BHQK = CheapAttention.apply(query_BHQC, key_BHKC, value_BHKC, attention_mask)
    return attended_BHQC.transpose(1, 2), weights_BHQK


class CheapAttention(torch.autograd.Function):
    """
    Equation 1 of the paper and its gradient, for queries, (B, H, Q, C), and keys and values, (B, H, K, C).

    Returns the attended values, (B, H, Q, C), and the weights, (B, H, Q, K), through which no gradient flows.
    """

    @staticmethod
    def forward(
        ctx: Any, query_BHQC: Tensor, key_BHKC: Tensor, value_BHKC: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        # N: batch times heads. Copied here, because a product would copy the keys transposed.
        query_NQC, key_NKC, value_NKC = (x.contiguous().flatten(0, 1) for x in (query_BHQC, key_BHKC, value_BHKC))
        B, H, _, C = query_BHQC.shape
        scaling = C**-0.5
        scores_BHQK = (query_NQC @ key_NKC.transpose(1, 2)).unflatten(0, (B, H)).float().mul_(scaling)
        if mask is not None:
            scores_BHQK.add_(mask)
        softmax_NQK = softmax(scores_BHQK).flatten(0, 1)
        weights_NQK = softmax_NQK.to(value_NKC.dtype)
        attended_BHQC = (weights_NQK @ value_NKC).unflatten(0, (B, H))
        ctx.save_for_backward(query_NQC, key_NKC, value_NKC, softmax_NQK, weights_NQK)
        ctx.batch_and_heads, ctx.scaling = (B, H), scaling
        weights_BHQK = weights_NQK.unflatten(0, (B, H))
        ctx.mark_non_differentiable(weights_BHQK)
        return attended_BHQC, weights_BHQK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BHQC: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        query_NQC, key_NKC, value_NKC, softmax_NQK, weights_NQK = ctx.saved_tensors
        gradient_NQC = gradient_BHQC.contiguous().flatten(0, 1)
        weights_gradient = (gradient_NQC @ value_NKC.transpose(1, 2)).float()
        scores_gradient = softmax_backward(weights_gradient, softmax_NQK).mul_(ctx.scaling).to(query_NQC.dtype)
        gradients = (
            scores_gradient @ key_NKC,
            scores_gradient.transpose(1, 2) @ query_NQC,
            weights_NQK.transpose(1, 2) @ gradient_NQC,
        )
        return *(each.unflatten(0, ctx.batch_and_heads) for each in gradients), None
