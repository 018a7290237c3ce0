"""
The training objective: cross-entropy with label smoothing, Section 5.4 of "Attention Is All You Need".

Letters behind a tensor's name are its axes: N target tokens of all sequences, V vocabulary, R readings of the same
tokens, of which R-Drop has two, X what there is of a token: its logits, or the hidden state that they are made of.
"""

import torch
from torch import nn
from torch.autograd.function import once_differentiable

IGNORED = -100

TOKENS_AT_ONCE = 1024
"""How many tokens' logits exist at a time where only the loss is asked for; products of fewer would be slower."""

LOGITS_AT_ONCE = {"cpu": 2**19, "cuda": 2**26}
"""How many logits are turned into probabilities at a time: as many as a core's caches hold, or as keep a GPU busy."""


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


def divergence(first, second, alpha):
    """
    Return how far two predictions of the same tokens are apart, (N, 1), and the gradients of both sides' logits.

    That is `alpha` times the mean of KL(P || Q) and KL(Q || P), of what `probabilities` returns. The two logarithms
    together: KL(P || Q) + KL(Q || P) = sum((P - Q) * (log P - log Q)).
    """
    (first_NV, p_NV, c_N1), (second_NV, q_NV, d_N1) = first, second
    gap_NV = (first_NV - second_NV).add_(c_N1 - d_N1)
    difference_NV = p_NV - q_NV
    # Of a product's two factors: P's own change, through the softmax, and its logarithm's.
    gradients = [
        (gap_NV - (share_NV * gap_NV).sum(1, keepdim=True)).mul_(share_NV).add_(difference_NV).mul_(sign * alpha / 2)
        for sign, share_NV in ((1, p_NV), (-1, q_NV))
    ]
    return alpha / 2 * (difference_NV * gap_NV).sum(1, keepdim=True), gradients


def loss_in_place_of_logits(logits_RNV, labels_N1, label_smoothing, rdrop_alpha):
    """
    Return the summed loss of all readings, and leave its gradient where the logits were.

    Probabilities in float32 exist of a few tokens at a time only: what torch would keep of all of them until the
    backward pass is several times as large as the logits.
    """
    R, _, V = logits_RNV.shape
    num_tokens = max(1, LOGITS_AT_ONCE.get(logits_RNV.device.type, 2**24) // (R * V))
    loss = logits_RNV.new_zeros((), dtype=torch.float32)
    for logits, labels in zip(logits_RNV.split(num_tokens, 1), labels_N1.split(num_tokens), strict=True):
        counts = labels != IGNORED
        labels = labels.where(counts, 0)
        readings = [probabilities(reading) for reading in logits]
        changes = [0] * R
        if rdrop_alpha:
            gaps, changes = divergence(*readings, rdrop_alpha)
            loss += gaps.where(counts, 0).sum()
        for gradient, reading, change in zip(logits, readings, changes, strict=True):
            losses, wrong = cross_entropy(*reading, labels, label_smoothing)
            loss += losses.where(counts, 0).sum()
            torch.mul(wrong.add_(change) if rdrop_alpha else wrong, counts, out=gradient)
    return loss


class SummedLoss(torch.autograd.Function):
    """
    The summed loss of tokens, (N, X), and labels, (N,), with the gradient taken in the same pass.

    The tokens are logits, or, with a `head`, what it makes logits of. The logits of all tokens, the largest of all
    tensors, then never are: of a piece of them the loss, the gradient and the products with it are taken at once, and
    the next piece takes its place. `weights` are the head's, for their gradient.
    """

    @staticmethod
    def forward(ctx, x_NX, labels_N, label_smoothing, rdrop_alpha, head, *weights):
        R = 2 if rdrop_alpha else 1
        x_RNX = x_NX.detach().unflatten(0, (R, len(x_NX) // R))
        labels_N1 = labels_N[: x_RNX.shape[1]].unsqueeze(1)
        if head is None:
            gradient_RNX = x_RNX.clone()
            loss = loss_in_place_of_logits(gradient_RNX, labels_N1, label_smoothing, rdrop_alpha)
            ctx.save_for_backward(gradient_RNX.flatten(0, 1))
            return loss
        loss = x_NX.new_zeros((), dtype=torch.float32)
        gradient_RNX = torch.empty_like(x_RNX)
        trained = [weight for weight in weights if weight.requires_grad]
        gradients = [torch.zeros_like(weight) for weight in trained]
        num_tokens = TOKENS_AT_ONCE // R
        for x, labels, gradient in zip(
            x_RNX.split(num_tokens, 1), labels_N1.split(num_tokens), gradient_RNX.split(num_tokens, 1), strict=True
        ):
            with torch.enable_grad():
                logits = head(x.requires_grad_())
            logits_gradient = logits.detach()
            loss += loss_in_place_of_logits(logits_gradient, labels, label_smoothing, rdrop_alpha)
            parts = torch.autograd.grad(logits, (x, *trained), logits_gradient)
            gradient.copy_(parts[0])
            for total, part in zip(gradients, parts[1:], strict=True):
                total.add_(part)
        ctx.save_for_backward(gradient_RNX.flatten(0, 1), *gradients)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, factor):
        gradient_NX, *gradients = (gradient * factor for gradient in ctx.saved_tensors)
        # Of x, of what has no gradient, and of the weights that are trained.
        rest = iter(gradients)
        return (
            gradient_NX,
            *[None] * 4,
            *(next(rest) if needed else None for needed in ctx.needs_input_grad[5:]),
        )


def label_smoothed_cross_entropy(
    logits, labels, num_items_in_batch=None, label_smoothing=0.0, rdrop_alpha=0.0, head=None
):
    """
    Return the loss of predicting `labels`, (B, T), from `logits`, (B, T, vocab_size); labels of -100 do not count.

    The sum over tokens is divided by `num_items_in_batch`: by the target tokens of a whole training step, so that
    accumulating small batches gives the gradient of one large batch. Without it, by the tokens at hand.

    With `rdrop_alpha` the batch's second half is its first once more, under other dropout, and how far the two
    predictions of a token are apart counts as well: R-Drop (Liang et al., 2021, arXiv:2106.14448), Equation 4. Both
    readings of a target token count as tokens. With a `head`, an `nn.Linear`, hidden states, (B, T, d_model), stand in
    the place of the logits, and it makes the logits of them, of a piece of the tokens at a time.
    """
    x_NX, labels_N = logits.flatten(0, -2), labels.flatten().to(logits.device)
    if rdrop_alpha or (torch.is_grad_enabled() and not torch.compiler.is_compiling()):
        weights = [] if head is None else [weight for weight in (head.weight, head.bias) if weight is not None]
        loss = SummedLoss.apply(x_NX, labels_N, label_smoothing, rdrop_alpha, head, *weights)
    else:
        logits_NV = x_NX if head is None else head(x_NX)
        loss = nn.functional.cross_entropy(
            logits_NV.float(), labels_N, ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing
        )
    if num_items_in_batch is None:
        num_items_in_batch = (labels_N != IGNORED).sum()
    return loss / num_items_in_batch
