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


def cross_entropy(logits_NV, p_NV, c_N1, labels_N1, label_smoothing):
    """Return each token's loss, (N, 1), and the gradient of their sum, in the place of the probabilities."""
    share = label_smoothing / logits_NV.shape[1]
    # Of the label's distribution, 1 - smoothing is on the label and the rest on all tokens alike.
    right = logits_NV.gather(1, labels_N1) + c_N1
    any_token = logits_NV.mean(1, keepdim=True) + c_N1
    # The gradient is what was predicted less what was to be predicted.
    gradient_NV = p_NV.sub_(share)
    gradient_NV.scatter_add_(1, labels_N1, gradient_NV.new_full(labels_N1.shape, label_smoothing - 1))
    return -torch.lerp(right, any_token, label_smoothing), gradient_NV


class SummedCrossEntropy(torch.autograd.Function):
    """
    The cross-entropy of logits, (N, V), and labels, (N,), summed, with the gradient taken in the same pass.

    Probabilities in float32 exist of a few tokens at a time only. What torch would keep of all of them until the
    backward pass is several times as large as the logits, and is most of the memory of a small model's training. With
    `overwrite` the gradient takes the place of the logits, the largest of all tensors, which are then lost.
    """

    @staticmethod
    def forward(ctx, logits_NV, labels_N, label_smoothing, overwrite):
        num_tokens = tokens_at_once(logits_NV)
        gradient_NV = logits_NV.detach() if overwrite else torch.empty_like(logits_NV)
        loss = logits_NV.new_zeros((), dtype=torch.float32)
        for logits, labels, gradient in zip(
            *(tensor.split(num_tokens) for tensor in (logits_NV, labels_N.unsqueeze(1), gradient_NV)), strict=True
        ):
            counts = labels != IGNORED
            losses, difference = cross_entropy(*probabilities(logits), labels.where(counts, 0), label_smoothing)
            loss += losses.where(counts, 0).sum()
            torch.mul(difference, counts, out=gradient)
        ctx.save_for_backward(gradient_NV)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (gradient_NV,) = ctx.saved_tensors
        return gradient_NV.mul_(gradient), *[None] * (len(ctx.needs_input_grad) - 1)


class SummedRDrop(SummedCrossEntropy):
    """
    The summed cross-entropy of both halves of the logits, and `alpha` times how far they are from each other.

    That is the mean of KL(P || Q) and KL(Q || P), where P is predicted in the first half and Q, of the same token, in
    the second. The two logarithms together: KL(P || Q) + KL(Q || P) = sum((P - Q) * (log P - log Q)).
    """

    @staticmethod
    def forward(ctx, logits_NV, labels_N, label_smoothing, alpha, overwrite):
        num_tokens = max(1, tokens_at_once(logits_NV) // 2)
        gradient_NV = logits_NV.detach() if overwrite else torch.empty_like(logits_NV)
        loss = logits_NV.new_zeros((), dtype=torch.float32)
        halves = *logits_NV.chunk(2), labels_N.unsqueeze(1).chunk(2)[0], *gradient_NV.chunk(2)
        for first, second, labels, *gradients in zip(*(half.split(num_tokens) for half in halves), strict=True):
            counts = labels != IGNORED
            labels = labels.where(counts, 0)
            (first, p, c), (second, q, d) = probabilities(first), probabilities(second)
            gap = (first - second).add_(c - d)
            difference = p - q
            loss += alpha / 2 * (difference * gap).sum(1, keepdim=True).where(counts, 0).sum()
            for sign, logits, share, shift, gradient in zip(
                (1, -1), (first, second), (p, q), (c, d), gradients, strict=True
            ):
                # Of a product's two factors: P's own change, through the softmax, and its logarithm's.
                change = (gap - (share * gap).sum(1, keepdim=True)).mul_(share).add_(difference).mul_(sign * alpha / 2)
                losses, wrong = cross_entropy(logits, share, shift, labels, label_smoothing)
                loss += losses.where(counts, 0).sum()
                torch.mul(wrong.add_(change), counts, out=gradient)
        ctx.save_for_backward(gradient_NV)
        return loss


def label_smoothed_cross_entropy(
    logits, labels, num_items_in_batch=None, label_smoothing=0.0, rdrop_alpha=0.0, overwrite=False
):
    """
    Return the loss of predicting `labels`, (B, T), from `logits`, (B, T, vocab_size); labels of -100 do not count.

    The sum over tokens is divided by `num_items_in_batch`: by the target tokens of a whole training step, so that
    accumulating small batches gives the gradient of one large batch. Without it, by the tokens at hand.

    With `rdrop_alpha` the batch's second half is its first once more, under other dropout, and how far the two
    predictions of a token are apart counts as well: R-Drop (Liang et al., 2021, arXiv:2106.14448), Equation 4. Both
    readings of a target token count as tokens. With `overwrite` the logits may be lost.
    """
    logits_NV, labels_N = logits.flatten(0, -2), labels.flatten().to(logits.device)
    if rdrop_alpha:
        loss = SummedRDrop.apply(logits_NV, labels_N, label_smoothing, rdrop_alpha, overwrite)
    elif logits.requires_grad and not torch.compiler.is_compiling():
        loss = SummedCrossEntropy.apply(logits_NV, labels_N, label_smoothing, overwrite)
    else:
        loss = nn.functional.cross_entropy(
            logits_NV.float(), labels_N, ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing
        )
    if num_items_in_batch is None:
        num_items_in_batch = (labels_N != IGNORED).sum()
    return loss / num_items_in_batch
