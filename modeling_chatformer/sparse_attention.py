"""
Sparse self-attention: Section 4 of "Generating Long Sequences with Sparse Transformers" (Child et al., 2019,
arXiv:1904.10509).

Full attention of n tokens takes n times n products. Here the token at position i looks at a set A_i of about the root
of n positions j, chosen so that two layers, or two sets in one layer, lead from any token to any earlier one. The paper
has decoders alone, whose sets end at i; the encoder's sets, which go on behind i in the same way, are ours.

A pattern is such a set: `contains` is the paper's definition. To compute it, the tokens are arranged in groups in which
each token meets every token of its set exactly once. Ordinary attention runs in each group, and its mask, which is the
definition again, hides what a group has beyond the sets.

Letters after a tensor's name are its axes: B batch, T tokens, H heads, C channels of one head, G groups, Q queries and
K keys of a group or of all tokens, N batch times groups, L tokens of a block, which is the stride.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask

from .attention import MaskedSelfAttention, MultiHeadAttention
from .configuration_chatformer import ChatformerConfig
from .embedding import positions_of

NOWHERE = -1
"""The position of padding."""


def filled_up(x_BT: Tensor, before: int, behind: int, filling: float = 0) -> Tensor:
    """`x_BT`, which may have more axes, with `filling` for so many more tokens before and behind it."""
    return functional.pad(x_BT, (0, 0) * (x_BT.dim() - 2) + (before, behind), value=filling)


def blocks_of(x_BT: Tensor, stride: int, filling: float = 0) -> Tensor:
    """The tokens in blocks, (B, G, L), the last one filled up."""
    return filled_up(x_BT, 0, -x_BT.shape[1] % stride, filling).unflatten(1, (-1, stride))


@dataclass(frozen=True)
class Pattern:
    """A set of positions for each position, and the groups in which attention to it is computed."""

    stride: int
    is_causal: bool

    def contains(self, i: Tensor, j: Tensor) -> Tensor:
        """True where j is in A_i, but for the future."""
        raise NotImplementedError

    def may_look(self, i: Tensor, j: Tensor) -> Tensor:
        """True where the token at i looks at the one at j."""
        return self.contains(i, j) & (j <= i) if self.is_causal else self.contains(i, j)

    def queries(self, x_BT: Tensor, filling: float = 0) -> Tensor:
        """The tokens in groups, (B, G, Q), each token in one of them."""
        return blocks_of(x_BT, self.stride, filling)

    def keys(self, x_BT: Tensor, filling: float = 0) -> Tensor:
        """What the queries of each group may look at, (B, G, K)."""
        raise NotImplementedError

    def in_order(self, x_BGQ: Tensor) -> Tensor:
        """The reverse of `queries`, (B, T), and what the last block was filled up with."""
        return x_BGQ.flatten(1, 2)

    def seen_by_last(self, x_BHKC: Tensor) -> Tensor:
        """Of the keys or values of all tokens so far, those that the last token looks at."""
        raise NotImplementedError


class StridedNear(Pattern):
    """The l tokens before: A_i = {t, t + 1, ..., i} with t = max(0, i - l). In the encoder also the l tokens behind."""

    def contains(self, i: Tensor, j: Tensor) -> Tensor:
        return (i - j).abs() <= self.stride

    def keys(self, x_BT: Tensor, filling: float = 0) -> Tensor:
        """A block, the one before it and, in the encoder, the one behind it."""
        x_BGL = blocks_of(x_BT, self.stride, filling)
        num_groups, behind = x_BGL.shape[1], 0 if self.is_causal else 1
        x_BGL = filled_up(x_BGL, 1, behind, filling)
        return torch.cat([x_BGL[:, first : first + num_groups] for first in range(2 + behind)], 2)

    def seen_by_last(self, x_BHKC: Tensor) -> Tensor:
        return x_BHKC[:, :, -self.stride - 1 :]


class StridedFar(Pattern):
    """Every l-th token: A_i = {j : (i - j) mod l = 0}."""

    def contains(self, i: Tensor, j: Tensor) -> Tensor:
        return (i - j) % self.stride == 0

    def queries(self, x_BT: Tensor, filling: float = 0) -> Tensor:
        """The tokens at the same place of each block."""
        return blocks_of(x_BT, self.stride, filling).transpose(1, 2)

    keys = queries

    def in_order(self, x_BGQ: Tensor) -> Tensor:
        return x_BGQ.transpose(1, 2).flatten(1, 2)

    def seen_by_last(self, x_BHKC: Tensor) -> Tensor:
        return x_BHKC[:, :, (x_BHKC.shape[2] - 1) % self.stride :: self.stride]


@dataclass(frozen=True)
class Fixed(Pattern):
    """
    The same block, and the last c tokens of every block, which sum it up: the union of A_i = {j : floor(j / l) =
    floor(i / l)} and A_i = {j : j mod l >= l - c}.

    One pattern and not two in turn: the second set is empty for the first tokens. In the encoder, where a block's first
    tokens know the others too, these are its summary: the last block may lack its last ones.
    """

    summary_size: int

    def contains(self, i: Tensor, j: Tensor) -> Tensor:
        place = j % self.stride
        sums_up = place >= self.stride - self.summary_size if self.is_causal else place < self.summary_size
        return (i // self.stride == j // self.stride) | sums_up

    def keys(self, x_BT: Tensor, filling: float = 0) -> Tensor:
        """The summaries of all blocks, and what else is in the block."""
        x_BGL = blocks_of(x_BT, self.stride, filling)
        if self.is_causal:
            own_BGK, summary_BGK = x_BGL.tensor_split([self.stride - self.summary_size], 2)
        else:
            summary_BGK, own_BGK = x_BGL.tensor_split([self.summary_size], 2)
        summaries_B1K = summary_BGK.flatten(1, 2).unsqueeze(1)
        summaries_BGK = summaries_B1K.expand(-1, x_BGL.shape[1], *summaries_B1K.shape[2:])
        return torch.cat([summaries_BGK, own_BGK], 2)

    def seen_by_last(self, x_BHKC: Tensor) -> Tensor:
        begin = (x_BHKC.shape[2] - 1) // self.stride * self.stride
        blocks_BHGLC = x_BHKC[:, :, :begin].unflatten(2, (-1, self.stride))
        summaries_BHKC = blocks_BHGLC[:, :, :, self.stride - self.summary_size :].flatten(2, 3)
        return torch.cat([summaries_BHKC, x_BHKC[:, :, begin:]], 2)


def patterns_of(config: ChatformerConfig, *, is_causal: bool) -> list[Pattern]:
    """
    What the layers look at, in turn; nothing for full attention.

    attention(X) = W_p attend(X, A^(r mod p)) of layer r for "strided", and attend(X, A^(1) and A^(2)) for "fixed": the
    first and the second way of Section 5.1 to use two sets, Equations 6 and 7.
    """
    if config.self_attention == "full":
        return []
    # ChatformerConfig sets them unless they are given.
    assert config.stride is not None
    if config.self_attention == "strided":
        return [StridedNear(config.stride, is_causal), StridedFar(config.stride, is_causal)]
    assert config.summary_size is not None
    return [Fixed(config.stride, is_causal, config.summary_size)]


def pattern_of(config: ChatformerConfig, layer_index: int, *, is_causal: bool) -> Pattern | None:
    """What a layer looks at, or None for full attention."""
    patterns = patterns_of(config, is_causal=is_causal)
    return patterns[layer_index % len(patterns)] if patterns else None


def cut_out(pattern: Pattern, mask_B1QK: Tensor) -> Tensor:
    """The mask of full attention, with what the pattern does not contain hidden too: the plain definition."""
    is_open_B1QK = mask_B1QK if mask_B1QK.dtype == torch.bool else mask_B1QK == 0
    # The last token may look at all others; only padding is hidden from it.
    j_BK = positions_of(is_open_B1QK[:, 0, -1])
    i_BQ = is_open_B1QK[:, 0].sum(-1) - 1 if pattern.is_causal else j_BK
    is_outside_BQK = ~pattern.may_look(i_BQ.unsqueeze(2), j_BK.unsqueeze(1))
    hidden = False if mask_B1QK.dtype == torch.bool else torch.finfo(mask_B1QK.dtype).min
    return mask_B1QK.masked_fill(is_outside_BQK.unsqueeze(1), hidden)


def open_pairs(config: ChatformerConfig, num_tokens: int, *, is_causal: bool) -> list[Tensor]:
    """For the layers in turn, (T, T): True where the row's token looks at the column's. For pictures of the sets."""
    position = torch.arange(num_tokens)
    patterns = patterns_of(config, is_causal=is_causal)
    if not patterns:
        everything = torch.ones(num_tokens, num_tokens, dtype=torch.bool)
        return [everything.tril() if is_causal else everything]
    return [pattern.may_look(position.unsqueeze(1), position) for pattern in patterns]


Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""From queries, keys, values and mask to the attended values, (B, Q, H, C), and the weights or None."""


class Groups(NamedTuple):
    """A pattern for the tokens of a batch, in place of a mask of all tokens with all."""

    pattern: Pattern
    mask_N1QK: Tensor
    order_BT: Tensor | None
    """The columns of the tokens and then those of the padding, or None if all padding is behind the tokens already."""
    place_BT: Tensor | None
    """Where `order_BT` puts each token."""

    def attend(self, attend: Attend, *query_key_value_BHTC: Tensor) -> tuple[Tensor, Tensor | None]:
        """Let `attend` run in the groups."""
        query_BTHC, key_BTHC, value_BTHC = (columns_of(x.transpose(1, 2), self.order_BT) for x in query_key_value_BHTC)
        B, T = query_BTHC.shape[:2]
        arranged_BGTHC = self.pattern.queries(query_BTHC), self.pattern.keys(key_BTHC), self.pattern.keys(value_BTHC)
        query_NHQC, key_NHKC, value_NHKC = (x.flatten(0, 1).transpose(1, 2) for x in arranged_BGTHC)
        attended_NQHC, _ = attend(query_NHQC, key_NHKC, value_NHKC, self.mask_N1QK)
        attended_BTHC = self.pattern.in_order(attended_NQHC.unflatten(0, (B, -1)))[:, :T]
        return columns_of(attended_BTHC, self.place_BT), None


def columns_of(x_BTHC: Tensor, column_BT: Tensor | None) -> Tensor:
    """In each row the tokens at these columns, or all of them as they are for None."""
    return x_BTHC if column_BT is None else x_BTHC.gather(1, column_BT[:, :, None, None].expand_as(x_BTHC))


def groups_of(patterns: Sequence[Pattern], x_BTD: Tensor, mask_BT: Tensor | None, *, as_numbers: bool) -> list[Groups]:
    """
    The groups of each pattern. mask_BT: 1 for tokens and 0 for padding, which is not counted.

    as_numbers: make masks that are added to the scores, and not of True and False.
    """
    B, T = x_BTD.shape[:2]
    position_BT = torch.arange(T, device=x_BTD.device).unsqueeze(0)
    order_BT = place_BT = None
    if mask_BT is not None:
        is_token_BT = mask_BT.bool()
        # Only if the answer may be waited for.
        if torch.compiler.is_compiling() or not bool((is_token_BT[:, 1:] <= is_token_BT[:, :-1]).all()):
            order_BT = (~is_token_BT).long().argsort(dim=1, stable=True)
            place_BT = positions_of(is_token_BT)
        position_BT = position_BT.masked_fill(position_BT >= is_token_BT.sum(1, keepdim=True), NOWHERE)
    found = []
    for pattern in patterns:
        i_BGQ, j_BGK = pattern.queries(position_BT, NOWHERE), pattern.keys(position_BT, NOWHERE)
        mask_BGQK = pattern.may_look(i_BGQ.unsqueeze(3), j_BGK.unsqueeze(2)) & (j_BGK != NOWHERE).unsqueeze(2)
        if as_numbers:
            mask_BGQK = x_BTD.new_zeros(mask_BGQK.shape).masked_fill_(~mask_BGQK, torch.finfo(x_BTD.dtype).min)
        found.append(Groups(pattern, mask_BGQK.expand(B, -1, -1, -1).flatten(0, 1).unsqueeze(1), order_BT, place_BT))
    return found


class LastToken(NamedTuple):
    """A pattern for the newest token of a generation, in place of a mask: it reads a part of the cache."""

    pattern: Pattern

    def attend(
        self, attend: Attend, query_BH1C: Tensor, key_BHKC: Tensor, value_BHKC: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        return attend(query_BH1C, self.pattern.seen_by_last(key_BHKC), self.pattern.seen_by_last(value_BHKC), None)


def sparse_masks(
    config: ChatformerConfig,
    x_BTD: Tensor,
    attention_mask: Tensor | None,
    *,
    is_causal: bool,
    cache: Any = None,
    output_attentions: bool = False,
) -> Sequence[Groups | LastToken | Tensor]:
    """
    What the layers take in place of the mask of full attention, in turn.

    attention_mask: as the encoder and the decoder take it. cache: that of the tokens before `x_BTD`.

    The plain definition is for few tokens, and for what neither groups nor one token's part of a cache can do: to show
    weights, to go on behind a prefix with padding or by several tokens at once, and caches of fixed size.
    """
    if config._attn_implementation not in ("eager", "sdpa"):
        raise ValueError(
            f"self_attention={config.self_attention!r} needs attn_implementation 'eager' or 'sdpa', but it is "
            f"{config._attn_implementation!r}."
        )
    patterns = patterns_of(config, is_causal=is_causal)
    if not output_attentions and (cache is None or not cache.is_compileable):
        if is_causal and attention_mask is None and x_BTD.shape[1] == 1:
            return [LastToken(pattern) for pattern in patterns]
        # Up to a stride, all tokens are near, and groups would mostly be filled up.
        fits = x_BTD.shape[1] > patterns[0].stride and (attention_mask is None or attention_mask.dim() == 2)
        if fits and (cache is None or not cache.get_seq_length()):
            as_numbers = config._attn_implementation == "eager"
            return groups_of(patterns, x_BTD, attention_mask, as_numbers=as_numbers)
    if is_causal:
        mask_B1QK: Any = create_causal_mask(config, x_BTD, attention_mask, cache, allow_is_causal_skip=False)
    else:
        mask_B1QK = create_bidirectional_mask(config, x_BTD, attention_mask, allow_is_bidirectional_skip=False)
    return [cut_out(pattern, mask_B1QK) for pattern in patterns]


class SparseAttention(MultiHeadAttention):
    """The encoder's self-attention to a part of the tokens."""

    def attend(
        self,
        query_BHQC: Tensor,
        key_BHKC: Tensor,
        value_BHKC: Tensor,
        mask: Any,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if isinstance(mask, Groups | LastToken):
            return mask.attend(super().attend, query_BHQC, key_BHKC, value_BHKC)
        return super().attend(query_BHQC, key_BHKC, value_BHKC, mask, output_attentions)


class MaskedSparseAttention(SparseAttention, MaskedSelfAttention):
    """The decoder's self-attention to a part of the earlier tokens."""
