"""
The training objective: cross-entropy with label smoothing, Section 5.4 of "Attention Is All You Need".

Letters behind a tensor's name are its axes: N target tokens of all sequences, V vocabulary.
"""

import torch
from torch import nn
from torch.autograd.function import once_differentiable

IGNORED = -100

LOGITS_AT_ONCE = {"cpu": 2**19, "cuda": 2**26}
"""How many logits are turned into probabilities at a time: as many as a core's caches hold, or as keep a GPU busy."""


def tokens_at_once(logits_NV):
    """Return how many tokens' logits make up a piece."""
    return max(1, LOGITS_AT_ONCE.get(logits_NV.device.type, 2**24) // logits_NV.shape[1])


def probabilities(logits_NV):
    """
    Return, in float32, logits, (N, V), their softmax p, and c, (N, 1), with which log p = logits + c.

    That takes one exponential of each logit, where a logarithm of the softmax and its exponential take two.
    """
    logits_NV = logits_NV.float()
    p_NV = logits_NV.softmax(-1)
    # The largest probability is at least 1/V: its logarithm is exact, where that of others may be of zero.
    return logits_NV, p_NV, p_NV.amax(1, keepdim=True).log() - logits_NV.amax(1, keepdim=True)


class SummedCrossEntropy(torch.autograd.Function):
    """
    The cross-entropy of logits, (N, V), and labels, (N,), summed, with the gradient taken in the same pass.

    Probabilities in float32 exist of a few tokens at a time only. What torch would keep of all of them until the
    backward pass is several times as large as the logits, and is most of the memory of a small model's training.
    """

    @staticmethod
    def forward(ctx, logits_NV, labels_N, label_smoothing):
        vocab_size = logits_NV.shape[1]
        num_tokens = tokens_at_once(logits_NV)
        gradient_NV = torch.empty_like(logits_NV)
        loss = logits_NV.new_zeros((), dtype=torch.float32)
        for logits, labels, gradient in zip(
            *(tensor.split(num_tokens) for tensor in (logits_NV, labels_N.unsqueeze(1), gradient_NV)), strict=True
        ):
            counts = labels != IGNORED
            labels = labels.where(counts, 0)
            logits, p, c = probabilities(logits)
            # Of the label's distribution, 1 - smoothing is on the label and the rest on all tokens alike.
            right = logits.gather(1, labels) + c
            any_token = logits.mean(1, keepdim=True) + c
            loss -= torch.lerp(right, any_token, label_smoothing).where(counts, 0).sum()
            # The gradient is what was predicted less what was to be predicted.
            difference = p.sub_(label_smoothing / vocab_size)
            difference.scatter_add_(1, labels, difference.new_full(labels.shape, label_smoothing - 1))
            torch.mul(difference, counts, out=gradient)
        ctx.save_for_backward(gradient_NV)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (gradient_NV,) = ctx.saved_tensors
        return gradient_NV.mul_(gradient), None, None


def label_smoothed_cross_entropy(logits, labels, num_items_in_batch=None, label_smoothing=0.0):
    """
    Return the loss of predicting `labels`, (B, T), from `logits`, (B, T, vocab_size); labels of -100 do not count.

    The sum over tokens is divided by `num_items_in_batch`: by the target tokens of a whole training step, so that
    accumulating small batches gives the gradient of one large batch. Without it, by the tokens at hand.
    """
    logits_NV, labels_N = logits.flatten(0, -2), labels.flatten().to(logits.device)
    if logits.requires_grad and not torch.compiler.is_compiling():
        loss = SummedCrossEntropy.apply(logits_NV, labels_N, label_smoothing)
    else:
        loss = nn.functional.cross_entropy(
            logits_NV.float(), labels_N, ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing
        )
    if num_items_in_batch is None:
        num_items_in_batch = (labels_N != IGNORED).sum()
    return loss / num_items_in_batch
