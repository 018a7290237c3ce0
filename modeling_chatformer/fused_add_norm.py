"""
Add & norm for training on GPUs, in Triton: Sections 3.1 and 5.4 of "Attention Is All You Need" in one kernel.

torch takes a kernel for each of dropout, sum and norm, and several more for their gradients, each of which reads and
writes all of its tensors. Letters after a tensor's name are its axes: N tokens, D d_model, P programs of a kernel.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

ELEMENTS = 2048
"""Of a matrix, as many as a program treats at a time."""

TURNS = 4
"""Times that a program of the backward pass does so, and adds up the gradients of weight and bias."""


@triton.jit
def places_of(number, num_tokens, D: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The places of some rows of a matrix (N, D), and which of them exist."""
    row, column = number * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    return row[:, None].to(tl.int64) * D + column[None, :], (row < num_tokens)[:, None] & (column < D)[None, :]


@triton.jit
def forward_kernel(
    x_ND,
    y_ND,
    weight_D,
    bias_D,
    result_ND,
    keeps_ND,
    mean_N,
    scale_N,
    seed,
    num_tokens,
    dropout,
    eps,
    D: tl.constexpr,
    DROPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    number = tl.program_id(0)
    place, exists = places_of(number, num_tokens, D, ROWS, COLUMNS)
    row, column = number * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    total = tl.load(y_ND + place, mask=exists, other=0.0).to(tl.float32)
    if DROPS:
        keeps = tl.rand(tl.load(seed), place) >= dropout
        tl.store(keeps_ND + place, keeps.to(tl.int8), mask=exists)
        total = tl.where(keeps, total / (1 - dropout), 0.0)
    total += tl.load(x_ND + place, mask=exists, other=0.0).to(tl.float32)
    mean = tl.sum(total, 1) / D
    centred = tl.where(exists, total - mean[:, None], 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, 1) / D + eps)
    weight = tl.load(weight_D + column, mask=column < D, other=0.0)
    bias = tl.load(bias_D + column, mask=column < D, other=0.0)
    result = centred * scale[:, None] * weight[None, :] + bias[None, :]
    tl.store(result_ND + place, result.to(result_ND.dtype.element_ty), mask=exists)
    tl.store(mean_N + row, mean, mask=row < num_tokens)
    tl.store(scale_N + row, scale, mask=row < num_tokens)


@triton.jit
def backward_kernel(
    gradient_ND,
    x_ND,
    y_ND,
    weight_D,
    keeps_ND,
    mean_N,
    scale_N,
    x_gradient_ND,
    y_gradient_ND,
    weight_gradient_PD,
    bias_gradient_PD,
    num_tokens,
    dropout,
    D: tl.constexpr,
    DROPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TURNS: tl.constexpr,
):
    program, column = tl.program_id(0), tl.arange(0, COLUMNS)
    weight = tl.load(weight_D + column, mask=column < D, other=0.0)
    weight_gradient = tl.zeros((ROWS, COLUMNS), tl.float32)
    bias_gradient = tl.zeros((ROWS, COLUMNS), tl.float32)
    for turn in range(TURNS):
        number = program * TURNS + turn
        place, exists = places_of(number, num_tokens, D, ROWS, COLUMNS)
        row = number * ROWS + tl.arange(0, ROWS)
        gradient = tl.load(gradient_ND + place, mask=exists, other=0.0).to(tl.float32)
        total = tl.load(y_ND + place, mask=exists, other=0.0).to(tl.float32)
        if DROPS:
            keeps = tl.load(keeps_ND + place, mask=exists, other=0) != 0
            total = tl.where(keeps, total / (1 - dropout), 0.0)
        total += tl.load(x_ND + place, mask=exists, other=0.0).to(tl.float32)
        mean = tl.load(mean_N + row, mask=row < num_tokens, other=0.0)
        scale = tl.load(scale_N + row, mask=row < num_tokens, other=0.0)
        normed = tl.where(exists, (total - mean[:, None]) * scale[:, None], 0.0)
        weight_gradient += gradient * normed
        bias_gradient += gradient
        gradient *= weight[None, :]
        along = tl.sum(gradient * normed, 1) / D
        total_gradient = (gradient - (tl.sum(gradient, 1) / D)[:, None] - normed * along[:, None]) * scale[:, None]
        tl.store(x_gradient_ND + place, total_gradient.to(x_gradient_ND.dtype.element_ty), mask=exists)
        if DROPS:
            total_gradient = tl.where(keeps, total_gradient / (1 - dropout), 0.0)
        tl.store(y_gradient_ND + place, total_gradient.to(y_gradient_ND.dtype.element_ty), mask=exists)
    place = program * D + column
    tl.store(weight_gradient_PD + place, tl.sum(weight_gradient, 0), mask=column < D)
    tl.store(bias_gradient_PD + place, tl.sum(bias_gradient, 0), mask=column < D)


def shape_of_tiles(D: int) -> dict[str, int]:
    columns = triton.next_power_of_2(D)
    return {"D": D, "COLUMNS": columns, "ROWS": max(1, ELEMENTS // columns)}


@torch.library.custom_op("chatformer::add_norm", mutates_args=())
def add_norm_op(
    x_ND: Tensor, y_ND: Tensor, weight_D: Tensor, bias_D: Tensor, seed: Tensor, dropout: float, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The result, in the precision of `y_ND`, and for the gradients what dropout keeps, the means and the scales."""
    N, D = y_ND.shape
    x_ND, y_ND = x_ND.contiguous(), y_ND.contiguous()
    result_ND = torch.empty_like(y_ND)
    keeps_ND = y_ND.new_empty((N, D) if dropout else (0, D), dtype=torch.int8)
    mean_N, scale_N = (y_ND.new_empty(N, dtype=torch.float32) for _ in range(2))
    tiles = shape_of_tiles(D)
    forward_kernel[triton.cdiv(N, tiles["ROWS"]),](
        *(x_ND, y_ND, weight_D, bias_D, result_ND, keeps_ND, mean_N, scale_N, seed),
        *(N, dropout, eps),
        DROPS=dropout > 0,
        **tiles,
    )
    return result_ND, keeps_ND, mean_N, scale_N


@torch.library.custom_op("chatformer::add_norm_gradients", mutates_args=())
def add_norm_gradients(
    gradient_ND: Tensor,
    x_ND: Tensor,
    y_ND: Tensor,
    weight_D: Tensor,
    keeps_ND: Tensor,
    mean_N: Tensor,
    scale_N: Tensor,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, y, weight and bias."""
    N, D = y_ND.shape
    x_ND, y_ND, gradient_ND = x_ND.contiguous(), y_ND.contiguous(), gradient_ND.contiguous()
    gradients = torch.empty_like(x_ND), torch.empty_like(y_ND)
    tiles = shape_of_tiles(D)
    num_programs = triton.cdiv(N, tiles["ROWS"] * TURNS)
    parts_2PD = weight_D.new_empty(2, num_programs, D)
    backward_kernel[num_programs,](
        *(gradient_ND, x_ND, y_ND, weight_D, keeps_ND, mean_N, scale_N, *gradients, parts_2PD[0], parts_2PD[1]),
        *(N, dropout),
        DROPS=dropout > 0,
        TURNS=TURNS,
        **tiles,
    )
    weight_and_bias = parts_2PD.sum(1)
    return *gradients, weight_and_bias[0].clone(), weight_and_bias[1]


@add_norm_op.register_fake
def _(x_ND: Tensor, y_ND: Tensor, weight_D: Tensor, bias_D: Tensor, seed: Tensor, dropout: float, eps: float) -> Any:
    N, D = y_ND.shape
    means = (y_ND.new_empty(N, dtype=torch.float32) for _ in range(2))
    return (
        torch.empty_like(y_ND, memory_format=torch.contiguous_format),
        y_ND.new_empty((N, D) if dropout else (0, D), dtype=torch.int8),
        *means,
    )


@add_norm_gradients.register_fake
def _(gradient_ND: Tensor, x_ND: Tensor, y_ND: Tensor, weight_D: Tensor, *_: Any) -> Any:
    x_gradient_ND, y_gradient_ND = (
        torch.empty_like(each, memory_format=torch.contiguous_format) for each in (x_ND, y_ND)
    )
    return x_gradient_ND, y_gradient_ND, torch.empty_like(weight_D), torch.empty_like(weight_D)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x_ND, y_ND, weight_D, _, _, ctx.dropout, _ = inputs
    ctx.save_for_backward(x_ND, y_ND, weight_D, *output[1:])


def _backward(ctx: Any, gradient_ND: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    return *add_norm_gradients(gradient_ND, *ctx.saved_tensors, ctx.dropout), None, None, None


add_norm_op.register_autograd(_backward, setup_context=_keep)


def add_norm(x: Tensor, y: Tensor, dropout: nn.Dropout, norm: nn.LayerNorm) -> Tensor:
    """LayerNorm(x + Dropout(y)), for x and y of (..., D), in the precision of y."""
    p = dropout.p if dropout.training else 0.0
    seed = torch.randint(2**31 - 1, (1,), device=y.device)
    result, *_ = add_norm_op(x.flatten(0, -2), y.flatten(0, -2), norm.weight, norm.bias, seed, p, norm.eps)
    return result.view_as(y)
