"""
The training objective: cross-entropy with label smoothing, Section 5.4 of "Attention Is All You Need".

fast_loss.py computes the same loss in chunks, with its gradient. Letters after a tensor's name are its axes: N target
tokens of all sequences, V vocabulary.
"""

from torch import Tensor

IGNORED = -100
"""The label of a token that does not count, such as padding."""


def label_smoothed_cross_entropy(logits_NV: Tensor, labels_N: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """The sum of -log p of each label; a share `label_smoothing` of it is spread evenly over the vocabulary."""
    log_p_NV = logits_NV.float().log_softmax(-1)
    counts_N = labels_N != IGNORED
    right_N = log_p_NV.gather(1, labels_N.where(counts_N, 0)[:, None])[:, 0]
    losses_N = -((1 - label_smoothing) * right_N + label_smoothing * log_p_NV.mean(1))
    return losses_N.where(counts_N, 0).sum()
