"""
Linear layers for training on GPUs, whose bias gets its gradient from a kernel of its own, in Triton.

torch's sum over a long column takes as long as a product. Letters after a tensor's name are its axes: N tokens, I and O
features of input and output, P programs of a kernel.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ROWS = 32
COLUMNS = 64
"""The size of a tile."""

PROGRAMS = 128
"""Programs that share the rows of some columns."""


@triton.jit
def partial_sums_kernel(x_NO, sums_PO, num_rows, num_columns, P: tl.constexpr, R: tl.constexpr, C: tl.constexpr):
    """The sum of every P-th tile of R rows, for C columns."""
    column = tl.program_id(1) * C + tl.arange(0, C)
    total = tl.zeros((R, C), tl.float32)
    number = tl.program_id(0)
    while number * R < num_rows:
        row = number * R + tl.arange(0, R)
        exists = (row < num_rows)[:, None] & (column < num_columns)[None, :]
        place = row[:, None].to(tl.int64) * num_columns + column[None, :]
        total += tl.load(x_NO + place, mask=exists, other=0.0).to(tl.float32)
        number += P
    tl.store(sums_PO + tl.program_id(0) * num_columns + column, tl.sum(total, 0), mask=column < num_columns)


@torch.library.custom_op("chatformer::sum_of_rows", mutates_args=())
def sum_of_rows(x_NO: Tensor) -> Tensor:
    """The sum over the rows of a matrix, (O,), in float32."""
    num_rows, num_columns = x_NO.shape
    sums_PO = x_NO.new_empty((PROGRAMS, num_columns), dtype=torch.float32)
    partial_sums_kernel[PROGRAMS, triton.cdiv(num_columns, COLUMNS)](
        x_NO.contiguous(), sums_PO, num_rows, num_columns, PROGRAMS, ROWS, COLUMNS
    )
    return sums_PO.sum(0)


@sum_of_rows.register_fake
def _(x_NO: Tensor) -> Tensor:
    return x_NO.new_empty(x_NO.shape[1], dtype=torch.float32)


class Product(torch.autograd.Function):
    """x W^T + b for x, (N, I), W, (O, I), and b, (O,), in the precision of autocast."""

    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor) -> Tensor:
        dtype = x_NI.dtype
        if torch.is_autocast_enabled(x_NI.device.type):
            dtype = torch.get_autocast_dtype(x_NI.device.type)
        ctx.dtypes = x_NI.dtype, weight_OI.dtype, bias_O.dtype
        x_NI, weight_OI, bias_O = x_NI.to(dtype), weight_OI.to(dtype), bias_O.to(dtype)
        ctx.save_for_backward(x_NI, weight_OI)
        return torch.addmm(bias_O, x_NI, weight_OI.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NO: Tensor) -> tuple[Tensor, ...]:
        x_NI, weight_OI = ctx.saved_tensors
        gradients = gradient_NO @ weight_OI, gradient_NO.t() @ x_NI, sum_of_rows(gradient_NO)
        return tuple(gradient.to(dtype) for gradient, dtype in zip(gradients, ctx.dtypes, strict=True))


class PackedLinear(nn.Linear):
    """A linear layer whose inputs are many tokens in one row."""

    evaluates_as = nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        return Product.apply(x.flatten(0, -2), self.weight, self.bias).unflatten(0, x.shape[:-1])
