"""What a training step minimizes: the model's own loss, and R-Drop's."""

from collections.abc import Mapping
from typing import Any

import torch


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
    options = {"num_items_in_batch": num_items_in_batch, "label_smoothing": label_smoothing}
    if rdrop_alpha:
        # One forward, as distributed training counts them, and one large product is faster than two.
        batch = {name: torch.cat([tensor, tensor]) for name, tensor in batch.items()}
        options = {**options, "num_items_in_batch": 2 * num_items_in_batch, "rdrop_alpha": rdrop_alpha}
    return model(**batch, **options, return_logits=False).loss
