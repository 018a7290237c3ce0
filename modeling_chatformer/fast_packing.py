"""
Layers that compute no padding, for training and scoring on CPUs. Except for rounding, they compute the same.
fast_gpu_training.py has those for GPUs.

A batch of sequences of different lengths is filled up with padding. Only attention needs it so: everything else treats
each token alone, and takes the real tokens of all sequences in one row. Letters after a tensor's name are its axes: B
batch, T tokens with padding, N real tokens, D d_model, H heads, C channels of one head, Q queries, K keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .attention import EagerAttention
from .fast_products import HAS_ONEDNN, round_number
from .layer_stack import LayerStack
from .loss import IGNORED

LEAST_PADDING = 0.15
"""The share of padding in a batch from which on packing pays."""


class Gathered(torch.autograd.Function):
    """
    Rows of a matrix at `index`, with zeros at the rows `empty` of the result, which belong to no row.

    `back` says where each row of the matrix has gone, and is gathered for the gradient, with zeros at `unused`.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, index: Tensor, empty: Tensor | None, back: Tensor, unused: Tensor | None
    ) -> Tensor:
        ctx.back, ctx.unused = back, unused
        gathered = x.index_select(0, index)
        return gathered if empty is None else gathered.index_fill_(0, empty, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gathered = gradient.index_select(0, ctx.back)
        return gathered if ctx.unused is None else gathered.index_fill_(0, ctx.unused, 0), None, None, None, None


class Places(NamedTuple):
    """For rows that hold a token, or a head of a token: where they lie with padding and without."""

    with_padding: Tensor
    """Of each row without padding, its row among all with padding."""
    without_padding: Tensor
    """Of each row with padding, its row among those without, or 0 if it is padding."""
    padding: Tensor
    """The rows with padding that are padding."""


@dataclass(frozen=True)
class Packing:
    """Where the real tokens of a padded batch are."""

    shape: tuple[int, int, int]
    """B, T and H."""
    tokens: Places
    """Of the rows (B, T)."""

    @classmethod
    def of(cls, is_token_BT: Tensor, num_heads: int) -> "Packing":
        is_token_M = is_token_BT.flatten()
        place_M = (is_token_M.cumsum(0) - 1).masked_fill(~is_token_M, 0)
        places = Places(is_token_M.nonzero()[:, 0], place_M, (~is_token_M).nonzero()[:, 0])
        return cls((*is_token_BT.shape, num_heads), places)

    @cached_property
    def heads(self) -> Places:
        """Of the rows (B, H, T) with padding and (N, H) without."""
        _, T, H = self.shape
        place_BT = self.tokens.without_padding.view(-1, T)
        head_H = torch.arange(H, device=place_BT.device)

        def with_padding(row_N: Tensor) -> Tensor:
            return (((row_N // T)[:, None] * H + head_H) * T + (row_N % T)[:, None]).flatten()

        return Places(
            with_padding(self.tokens.with_padding),
            (place_BT[:, None] * H + head_H[:, None]).flatten(),
            with_padding(self.tokens.padding),
        )

    def pack(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) to (1, N, D)."""
        places = self.tokens
        x_MD = x_BTD.flatten(0, 1)
        return Gathered.apply(x_MD, places.with_padding, None, places.without_padding, places.padding)[None]

    def pad(self, x_1ND: Tensor) -> Tensor:
        """(1, N, D) to (B, T, D), with zeros at padding."""
        places = self.tokens
        x_MD = Gathered.apply(x_1ND[0], places.without_padding, places.padding, places.with_padding, None)
        return x_MD.unflatten(0, self.shape[:2])

    def pad_heads(self, x_1HNC: Tensor) -> Tensor:
        """(1, H, N, C) to (B, H, T, C), with anything at padding."""
        B, T, H = self.shape
        places = self.heads
        x_MC = x_1HNC.transpose(1, 2).flatten(0, 2)
        return Gathered.apply(x_MC, places.without_padding, None, places.with_padding, None).view(B, H, T, -1)

    def pack_heads(self, x_BTHC: Tensor) -> Tensor:
        """(B, T, H, C) to (1, N, H, C)."""
        places = self.heads
        x_MC = x_BTHC.transpose(1, 2).flatten(0, 2)
        packed_MC = Gathered.apply(x_MC, places.with_padding, None, places.without_padding, places.padding)
        return packed_MC.view(1, -1, *x_BTHC.shape[2:])


class PackedMask(NamedTuple):
    """An attention's mask for the padded batch, and where the packed queries and keys belong in it, if they are."""

    mask_B1QK: Tensor | None
    queries: Packing | None
    keys: Packing | None

    def attend(
        self, attention: EagerAttention, query: Tensor, key: Tensor, value: Tensor, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """What `attention` returns for padded heads, packed as the queries are."""
        if self.queries is not None:
            query = self.queries.pad_heads(query)
        if self.keys is not None:
            key, value = self.keys.pad_heads(key), self.keys.pad_heads(value)
        attended_BQHC, weights_BHQK = attention(query, key, value, self.mask_B1QK, **options)
        if self.queries is not None:
            attended_BQHC = self.queries.pack_heads(attended_BQHC)
        return attended_BQHC, weights_BHQK


def packing_of(mask_B1QK: Any, num_heads: int, *, few_shapes: bool = False) -> Packing | None:
    """
    How to pack the keys of an eager attention's mask; None if that does not pay, or it hides more than padding.

    For `few_shapes`, some padding is taken for tokens, as many as `round_number` asks for.
    """
    if not isinstance(mask_B1QK, Tensor) or mask_B1QK.dtype == torch.bool or mask_B1QK.device.type != "cpu":
        return None
    # The last query may look at all tokens.
    last_B11K = mask_B1QK[:, :1, -1:]
    is_token_BT = (last_B11K == 0)[:, 0, 0]
    num_tokens = is_token_BT.sum(1)
    if num_tokens.sum() > (1 - LEAST_PADDING) * is_token_BT.numel() or not num_tokens.all():
        return None
    expected = last_B11K.expand_as(mask_B1QK)
    if not torch.equal(mask_B1QK, expected):
        Q, K = mask_B1QK.shape[2:]
        future_QK = torch.ones(Q, K, dtype=torch.bool).triu(1)
        if not torch.equal(mask_B1QK, expected.masked_fill(future_QK, torch.finfo(mask_B1QK.dtype).min)):
            return None
    return Packing.of(filled_up(is_token_BT) if few_shapes else is_token_BT, num_heads)


def filled_up(is_token_BT: Tensor) -> Tensor:
    """The same with some padding taken for tokens, so that packed products all have one of few shapes."""
    padding_M = (~is_token_BT).flatten()
    num_tokens = int(is_token_BT.sum())
    missing = round_number(num_tokens) - num_tokens
    return is_token_BT | ((padding_M.cumsum(0) <= missing) & padding_M).view_as(is_token_BT)


class PackedStack(LayerStack):
    """A stack of layers that computes no padding where it can: for the eager attention, without a cache."""

    evaluates_as = LayerStack

    def __init__(self, layers: LayerStack, num_heads: int, *, is_wide: bool):
        super().__init__(layers)
        self.num_heads, self.is_wide = num_heads, is_wide

    def packing_of(self, mask_B1QK: Any) -> Packing | None:
        """`packing_of`, with few shapes where oneDNN computes the products."""
        few_shapes = HAS_ONEDNN and (self.is_wide or torch.is_autocast_enabled("cpu"))
        return packing_of(mask_B1QK, self.num_heads, few_shapes=few_shapes)

    def forward(self, x_BTD: Tensor, masks: Sequence[Any], *inputs: Any, **options: Any) -> Any:
        shows_inside = options.get("output_attentions") or options.get("output_hidden_states")
        if (
            shows_inside
            or options.get("past_key_values") is not None
            or len(masks) > 1
            or torch.compiler.is_compiling()
        ):
            return super().forward(x_BTD, masks, *inputs, **options)
        own = self.packing_of(masks[0])
        if inputs:
            memory, memory_mask = inputs
            others = self.packing_of(memory_mask)
            inputs = (
                memory if others is None else others.pack(memory),
                PackedMask(memory_mask, own, others) if own or others else memory_mask,
            )
        if own is not None:
            x_BTD, masks = own.pack(x_BTD), [PackedMask(masks[0], own, own)]
        x_BTD, *rest = super().forward(x_BTD, masks, *inputs, **options)
        return (x_BTD if own is None else own.pad(x_BTD)), *rest


def show_padding(_: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A hook before a model's forward: where only the loss is wanted, no label shows which tokens are padding."""
    labels_BT = options.get("labels")
    given = ("decoder_input_ids", "decoder_inputs_embeds", "decoder_attention_mask", "past_key_values")
    if (
        labels_BT is not None
        and options.get("return_logits") is False
        and not arguments
        and all(options.get(name) is None for name in given)
        and labels_BT.device.type == "cpu"
        and bool((labels_BT[:, -1] == IGNORED).any())
    ):
        options = {**options, "decoder_attention_mask": tokens_of(labels_BT).long()}
    return arguments, options


# The decoder without modules may do without it.
show_padding.only_trains = True  # type: ignore[attr-defined]


def tokens_of(labels_BT: Tensor) -> Tensor:
    """Which labels are tokens, and not padding: behind the last one that counts, nothing has an effect."""
    return (labels_BT != IGNORED).flip(1).cumsum(1).flip(1) > 0
