"""What a training step minimizes: the model's own loss, and R-Drop's."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from chatformer.loss import probabilities, tokens_at_once

from .batches import IGNORED


def training_loss(
    model: Any,
    batch: Mapping[str, torch.Tensor],
    *,
    num_items_in_batch: int,
    label_smoothing: float,
    rdrop_alpha: float,
) -> torch.Tensor:
    """
    Return the loss of a batch, summed over its target tokens and divided by `num_items_in_batch`.

    With `rdrop_alpha`, R-Drop (Liang et al., 2021, arXiv:2106.14448), Equation 4: every exchange is read twice, each
    time with its own dropout, and the two predictions are to agree. It is half the paper's, and so of the size of the
    plain loss: the mean of both, and alpha/2 times the symmetric divergence. Takes twice the memory and time.
    """
    if not rdrop_alpha:
        sums = {"num_items_in_batch": num_items_in_batch, "label_smoothing": label_smoothing}
        return model(**batch, **sums, return_logits=False).loss
    # One forward, as distributed training counts them, and one large product is faster than two.
    twice = {name: torch.cat([tensor, tensor]) for name, tensor in batch.items()}
    outputs = model(**twice, num_items_in_batch=2 * num_items_in_batch, label_smoothing=label_smoothing)
    is_target_BT = batch["labels"].to(outputs.logits.device) != IGNORED
    divergence = SummedDivergence.apply(*(logits_BTV[is_target_BT] for logits_BTV in outputs.logits.chunk(2)))
    return outputs.loss + rdrop_alpha / 2 * divergence / num_items_in_batch


class SummedDivergence(torch.autograd.Function):
    """
    The mean of KL(P || Q) and KL(Q || P), of the distributions with these logits, (N, V), summed over the tokens.

    The two logarithms together: KL(P || Q) + KL(Q || P) = sum((P - Q) * (log P - log Q)). As in the cross-entropy,
    the gradient is taken in the same pass, a few tokens at a time.
    """

    @staticmethod
    def forward(ctx: Any, first_NV: torch.Tensor, second_NV: torch.Tensor) -> torch.Tensor:
        gradients = torch.empty_like(first_NV), torch.empty_like(second_NV)
        divergence = first_NV.new_zeros((), dtype=torch.float32)
        num_tokens = tokens_at_once(first_NV)
        for pieces in zip(*(tensor.split(num_tokens) for tensor in (first_NV, second_NV, *gradients)), strict=True):
            (first, p, c), (second, q, d) = (probabilities(logits) for logits in pieces[:2])
            gap = (first - second).add_(c - d)
            difference = p - q
            divergence += (difference * gap).sum() / 2
            # Of a product's two factors: P's own change, through the softmax, and its logarithm's.
            for sign, share, gradient in ((1, p, pieces[2]), (-1, q, pieces[3])):
                mean_gap = (share * gap).sum(-1, keepdim=True)
                torch.mul(share.mul_(gap - mean_gap).add_(difference), sign / 2, out=gradient)
        ctx.save_for_backward(*gradients)
        return divergence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(tensor.mul_(gradient) for tensor in ctx.saved_tensors)
