"""The training objective: cross-entropy with label smoothing, Section 5.4 of "Attention Is All You Need"."""

from torch import nn


def label_smoothed_cross_entropy(logits, labels, num_items_in_batch=None, label_smoothing=0.0):
    """
    Return the loss of predicting `labels`, (B, T), from `logits`, (B, T, vocab_size); labels of -100 do not count.

    The sum over tokens is divided by `num_items_in_batch`: by the target tokens of a whole training step, so that
    accumulating small batches gives the gradient of one large batch. Without it, by the tokens at hand.
    """
    loss = nn.functional.cross_entropy(
        logits.flatten(0, -2).float(),
        labels.flatten().to(logits.device),
        ignore_index=-100,
        reduction="mean" if num_items_in_batch is None else "sum",
        label_smoothing=label_smoothing,
    )
    return loss if num_items_in_batch is None else loss / num_items_in_batch
