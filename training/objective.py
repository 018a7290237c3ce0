"""What a training step minimizes: the model's own loss, and R-Drop's."""

from collections.abc import Mapping
from typing import Any

import torch

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
        return model(**batch, num_items_in_batch=num_items_in_batch, label_smoothing=label_smoothing).loss
    # One forward, as distributed training counts them, and one large product is faster than two.
    twice = {name: torch.cat([tensor, tensor]) for name, tensor in batch.items()}
    outputs = model(**twice, num_items_in_batch=2 * num_items_in_batch, label_smoothing=label_smoothing)
    divergence_BT = symmetric_divergence(*outputs.logits.chunk(2))
    is_target_BT = batch["labels"].to(divergence_BT.device) != IGNORED
    divergence = torch.where(is_target_BT, divergence_BT, 0).sum() / num_items_in_batch
    return outputs.loss + rdrop_alpha / 2 * divergence


def symmetric_divergence(first_BTV: torch.Tensor, second_BTV: torch.Tensor) -> torch.Tensor:
    """
    Return the mean of KL(P || Q) and KL(Q || P), (B, T), of the distributions with these logits.

    The two logarithms together: KL(P || Q) + KL(Q || P) = sum((P - Q) * (log P - log Q)).
    """
    first_BTV = first_BTV.float().log_softmax(-1)
    second_BTV = second_BTV.float().log_softmax(-1)
    return 0.5 * ((first_BTV.exp() - second_BTV.exp()) * (first_BTV - second_BTV)).sum(-1)
