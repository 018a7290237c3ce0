"""
The loss of loss.py, faster and in less memory: chunk by chunk, with the gradient computed in the same pass.

It also has the loss of R-Drop (Liang et al., 2021, arXiv:2106.14448). Letters after a tensor's name are its axes:
N target tokens of all sequences, V vocabulary, R passes over the same tokens (2 with R-Drop), X features of a token:
its logits or its hidden state.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .loss import IGNORED, label_smoothed_cross_entropy

TOKENS_AT_ONCE = 1024
"""Tokens whose logits exist at the same time if only the loss is wanted; products of fewer tokens are slower."""

LOGITS_ON_A_GPU = 2**27
"""Logits that exist at the same time on a GPU, if these are of more tokens: 256 MiB in bfloat16."""

LOGITS_AT_ONCE = {"cpu": 2**19, "cuda": 2**26}
"""Logits that are turned into probabilities at a time: as many as fit a core's caches, or keep a GPU busy."""


def probabilities(logits_NV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """
    Return, in float32, the logits, (N, V), their softmax p, and c, (N, 1), with log p = logits + c.

    This takes one exponential of each logit. A softmax, its logarithm and the gradient would take two.
    """
    logits_NV = logits_NV.float()
    p_NV = logits_NV.softmax(-1)
    # The largest probability is at least 1/V, so that its logarithm is exact; smaller ones may be rounded to zero.
    return logits_NV, p_NV, p_NV.amax(1, keepdim=True).log() - logits_NV.amax(1, keepdim=True)


def cross_entropy(
    logits_NV: Tensor, p_NV: Tensor, c_N1: Tensor, labels_N1: Tensor, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """Return each token's loss, (N, 1), and the gradient of their sum, which overwrites the probabilities."""
    share = label_smoothing / logits_NV.shape[1]
    right = logits_NV.gather(1, labels_N1) + c_N1
    any_token = logits_NV.mean(1, keepdim=True) + c_N1
    # The gradient is the predicted distribution minus the wanted one.
    gradient_NV = p_NV.sub_(share)
    gradient_NV.scatter_add_(1, labels_N1, gradient_NV.new_full(labels_N1.shape, label_smoothing - 1))
    return -torch.lerp(right, any_token, label_smoothing), gradient_NV


def divergence(
    first: tuple[Tensor, Tensor, Tensor], second: tuple[Tensor, Tensor, Tensor], alpha: float
) -> tuple[Tensor, list[Tensor]]:
    """
    The divergence of two predictions of the same tokens, (N, 1), and its gradients for the logits of both.

    It is `alpha` times the mean of KL(P || Q) and KL(Q || P), for two results of `probabilities`. Both logarithms
    meet in one difference: KL(P || Q) + KL(Q || P) = sum((P - Q) * (log P - log Q)).
    """
    (first_NV, p_NV, c_N1), (second_NV, q_NV, d_N1) = first, second
    gap_NV = (first_NV - second_NV).add_(c_N1 - d_N1)
    difference_NV = p_NV - q_NV
    # The product rule: the change of P itself, through the softmax, and the change of its logarithm.
    gradients = [
        (gap_NV - (share_NV * gap_NV).sum(1, keepdim=True)).mul_(share_NV).add_(difference_NV).mul_(sign * alpha / 2)
        for sign, share_NV in ((1, p_NV), (-1, q_NV))
    ]
    return alpha / 2 * (difference_NV * gap_NV).sum(1, keepdim=True), gradients


def overwrite_with_gradient(
    logits_RNV: Tensor, labels_N1: Tensor, label_smoothing: float, rdrop_alpha: float
) -> Tensor:
    """
    Return the summed loss of all passes, and overwrite the logits with its gradient.

    Float32 probabilities exist for a few tokens at a time. What torch would keep of all tokens for the backward pass
    is several times as large as the logits.
    """
    R, _, V = logits_RNV.shape
    num_tokens = max(1, LOGITS_AT_ONCE.get(logits_RNV.device.type, 2**24) // (R * V))
    loss = logits_RNV.new_zeros((), dtype=torch.float32)
    for logits, labels in zip(logits_RNV.split(num_tokens, 1), labels_N1.split(num_tokens), strict=True):
        counts = labels != IGNORED
        labels = labels.where(counts, 0)
        predictions = [probabilities(one_pass) for one_pass in logits]
        changes: Sequence[Any] = [None] * R
        if rdrop_alpha:
            gaps, changes = divergence(predictions[0], predictions[1], rdrop_alpha)
            loss += gaps.where(counts, 0).sum()
        for gradient, prediction, change in zip(logits, predictions, changes, strict=True):
            losses, wrong = cross_entropy(*prediction, labels, label_smoothing)
            loss += losses.where(counts, 0).sum()
            torch.mul(wrong if change is None else wrong.add_(change), counts, out=gradient)
    return loss


class SummedLoss(torch.autograd.Function):
    """
    The summed loss of tokens, (N, X), and labels, (N,), whose gradient is computed in the forward pass.

    The tokens are logits, or hidden states that `head` turns into logits. With a head the full logits, the largest
    tensor of all, never exist: loss, gradient and products with the gradient are computed chunk by chunk. `weights`
    are the head's, which need gradients.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_NX: Tensor,
        labels_N: Tensor,
        label_smoothing: float,
        rdrop_alpha: float,
        head: nn.Linear | None,
        overwrite: Callable[..., Tensor] | None,
        *weights: Tensor,
    ) -> Tensor:
        overwrite = overwrite or overwrite_with_gradient
        R = 2 if rdrop_alpha else 1
        x_RNX = x_NX.detach().unflatten(0, (R, len(x_NX) // R))
        labels_N1 = labels_N[: x_RNX.shape[1]].unsqueeze(1)
        if head is None:
            gradient_RNX = x_RNX.clone()
            loss = overwrite(gradient_RNX, labels_N1, label_smoothing, rdrop_alpha)
            ctx.save_for_backward(gradient_RNX.flatten(0, 1))
            return loss
        loss = x_NX.new_zeros((), dtype=torch.float32)
        gradient_RNX = torch.empty_like(x_RNX)
        trainable = [weight for weight in weights if weight.requires_grad]
        gradients: list[Tensor] = []
        num_tokens = TOKENS_AT_ONCE // R
        if x_NX.is_cuda:
            num_tokens = max(num_tokens, LOGITS_ON_A_GPU // (R * head.out_features))
        for x, labels, gradient in zip(
            x_RNX.split(num_tokens, 1), labels_N1.split(num_tokens), gradient_RNX.split(num_tokens, 1), strict=True
        ):
            with torch.enable_grad():
                logits = head(x.requires_grad_())
            logits_gradient = logits.detach()
            loss += overwrite(logits_gradient, labels, label_smoothing, rdrop_alpha)
            parts = torch.autograd.grad(logits, (x, *trainable), logits_gradient)
            gradient.copy_(parts[0])
            if not gradients:
                gradients = list(parts[1:])
                continue
            for total, part in zip(gradients, parts[1:], strict=True):
                total.add_(part)
        ctx.save_for_backward(gradient_RNX.flatten(0, 1), *gradients)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        gradient_NX, *gradients = (gradient * factor for gradient in ctx.saved_tensors)
        # For x, for five inputs without a gradient, and for the weights that need one.
        rest = iter(gradients)
        return (
            gradient_NX,
            *[None] * 5,
            *(next(rest) if needed else None for needed in ctx.needs_input_grad[6:]),
        )


def fused_loss(
    logits: Tensor,
    labels: Tensor,
    num_items_in_batch: Tensor | int | None = None,
    label_smoothing: float = 0.0,
    rdrop_alpha: float = 0.0,
    head: nn.Linear | None = None,
    overwrite: Callable[..., Tensor] | None = None,
) -> Tensor:
    """
    The loss of predicting `labels`, (B, T), from `logits`, (B, T, V); labels of -100 do not count.

    The sum over tokens is divided by `num_items_in_batch`, or by the number of labels that count. With the target
    tokens of a training step, accumulating small batches gives the gradient of one large batch.

    If `head` is given, `logits` are hidden states, (B, T, d_model), and `head` turns them into logits 1,024 tokens at
    a time, or more on a GPU. With `rdrop_alpha`, the second half of the batch is the first half again under other
    dropout, both halves count as tokens, and the divergence of the two predictions is added: R-Drop, Equation 4.
    `overwrite` is called instead of `overwrite_with_gradient`, such as the same function, compiled.
    """
    x_NX, labels_N = logits.flatten(0, -2), labels.flatten().to(logits.device)
    if num_items_in_batch is None:
        num_items_in_batch = (labels_N != IGNORED).sum()
    # A GPU would have to wait for the number of labels.
    if labels_N.device.type == "cpu" and not torch.compiler.is_compiling():
        # With R-Drop, both halves have the labels of the first.
        R = 2 if rdrop_alpha else 1
        counts_N = (labels_N[: len(labels_N) // R] != IGNORED).repeat(R)
        if 0 < counts_N.sum() < len(labels_N):
            counted = counts_N.nonzero()[:, 0]
            x_NX, labels_N = x_NX.index_select(0, counted), labels_N[counted]
    if rdrop_alpha or (torch.is_grad_enabled() and not torch.compiler.is_compiling()):
        weights = [] if head is None else [weight for weight in (head.weight, head.bias) if weight is not None]
        loss = SummedLoss.apply(x_NX, labels_N, label_smoothing, rdrop_alpha, head, overwrite, *weights)
    else:
        logits_NV = x_NX if head is None else head(x_NX)
        loss = label_smoothed_cross_entropy(logits_NV, labels_N, label_smoothing)
    return loss / num_items_in_batch
