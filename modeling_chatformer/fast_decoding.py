"""
The decoder for one new token of each reply on a CPU, without modules.

Decoding one token on a CPU spends most of its time in module overhead. This file is the same arithmetic without it. It
is used only if every module is plain: in eval mode, on a CPU, without hooks, adapters or quantized weights.

The beams of a question share its source, and one pool of keys and values, where a mask hides from a beam what others
have said. So no keys and values are copied when a beam goes on with what another one has said.

Letters after a tensor's name are its axes: Q questions, W beams of each (the width of the search; 1 without beams), R
rows, one for each beam of each question, S source tokens, T target tokens so far, K keys, D d_model, V vocabulary, H
heads, C channels of one head, N questions times heads.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from .attention import CrossAttention, MaskedSelfAttention, eager_attention
from .decoder import Decoder, DecoderLayer
from .embedding import ScaledEmbedding, SinusoidalPositions
from .fast_products import HAS_ONEDNN, onednn_product, packed_weight
from .feed_forward import FeedForward
from .layer_stack import LayerStack
from .sparse_attention import MaskedSparseAttention, pattern_of

PLAIN_MODULES = frozenset(
    {
        *(Decoder, DecoderLayer, MaskedSelfAttention, MaskedSparseAttention, CrossAttention, FeedForward),
        *(ScaledEmbedding, SinusoidalPositions, nn.Linear, nn.LayerNorm, nn.Dropout, LayerStack),
    }
)
"""Modules whose arithmetic this file knows. What replaces one of these, or `eager_attention`, names it as its
`evaluates_as`."""

LEAST_ONEDNN_WORK = 2**20
"""Multiplications of a product from which on oneDNN is faster than torch's own choice for any shape."""

LEAST_PACKED_WEIGHT = 2**20
"""Elements of a weight from which on oneDNN's own layout makes products of several rows faster."""

LEAST_PACKED_ROWS = 32
"""Rows from which on that is so for any weight."""

FIRST_CAPACITY = 32
"""Tokens that the pools have room for at first; they grow to twice as many."""


def is_inference(model: Any) -> bool:
    """True if neither dropout nor gradients nor other precisions are asked for, and nothing is being compiled."""
    return not (
        model.training or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
    )


def has_more(module: nn.Module) -> bool:
    """True if a module does more than its class says; hooks that matter to training alone have `only_trains`."""
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    attend = module.__dict__.get("eager_attention", eager_attention)
    return (
        "forward" in module.__dict__
        or type(module).__call__ is not nn.Module.__call__
        or getattr(attend, "evaluates_as", attend) is not eager_attention
        or not all(getattr(hook, "only_trains", False) for hook in hooks)
    )


def is_plain(model: Any, decoder: Any, head: nn.Module) -> bool:
    """True if this decoder and output layer of a model compute what `NextToken` does, and nothing else."""
    if (
        decoder.config._attn_implementation not in ("eager", "sdpa")
        or decoder.config.output_attentions
        or decoder.config.output_hidden_states
        or nn.modules.module._has_any_global_hook()
        # A compiled or wrapped model, such as accelerate's for mixed precision.
        or model._compiled_call_impl is not None
        or has_more(model)
    ):
        return False
    plain_classes = {*PLAIN_MODULES, model.plain_model_class, type(decoder.layers[0].feed_forward.activation)}
    for module in (model.model, head, *decoder.modules()):
        kind = vars(type(module)).get("evaluates_as", type(module))
        if kind not in plain_classes or module.training or has_more(module):
            return False
        weights = [weight for weight in module._parameters.values() if weight is not None]
        if any(type(weight) is not nn.Parameter or weight.device.type != "cpu" for weight in weights):
            return False
    return True


class NextToken:
    """The decoder and the output layer for one new token of each row, with their weights at hand."""

    def __init__(
        self, decoder: Any, head: Any, memory_QSD: Tensor, memory_mask_Q11S: Tensor | None, num_beams: int = 1
    ):
        """Project the source's keys and values."""
        self.embedding, self.scale = decoder.embedding.weight, decoder.embedding.embed_scale
        self.decoder, self.memory_QSD, self.memory_mask_Q11S = decoder, memory_QSD, memory_mask_Q11S
        self.num_heads, self.num_beams, self.num_tokens = decoder.config.num_heads, num_beams, 0
        num_rows = len(memory_QSD) * num_beams
        with torch.inference_mode():
            self.layers = [NextTokenLayer(layer, memory_QSD, num_beams) for layer in decoder.layers]
            self.output = product_with(head, num_rows)
            self.no_mask = self.memory_mask_N1S = self.embedding.new_zeros(1)
            if memory_mask_Q11S is not None:
                mask = memory_mask_Q11S
                if mask.dtype == torch.bool:
                    mask = self.no_mask.new_zeros(mask.shape).masked_fill(~mask, torch.finfo(self.no_mask.dtype).min)
                self.memory_mask_N1S = mask.expand(-1, self.num_heads, -1, -1).flatten(0, 1)
            # Added to the scores: a beam does not see what others have said, and of the newest tokens its own alone.
            self.newest_WW = self.no_mask.new_full((num_beams, num_beams), float("-inf")).fill_diagonal_(0)
            self.hidden_QWTW = self.no_mask.new_zeros(len(memory_QSD), num_beams, 0, num_beams)

    def __call__(self, ids_R: Tensor) -> Tensor:
        """Read the newest token of each row; return the logits after it, (R, V)."""
        position_D = self._next_position()
        with torch.inference_mode():
            return self.output(self._read(ids_R, position_D))

    def read(self, ids_RT: Tensor) -> None:
        """
        Read the first tokens of each row, which are the same for all beams of a question.

        All at once, which the modules do best.
        """
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.decoder(
            ids_RT[:: self.num_beams],
            encoder_hidden_states=self.memory_QSD,
            encoder_attention_mask=self.memory_mask_Q11S,
            past_key_values=cache,
            use_cache=True,
        )
        self.num_tokens = ids_RT.shape[1]
        with torch.inference_mode():
            own_layers: Any = cache.self_attention_cache.layers
            for layer, read in zip(self.layers, own_layers, strict=True):
                layer.begin_with(read.keys, read.values)
            # Each beam has them in its own places.
            self.hidden_QWTW = self.newest_WW[:, None].repeat(len(self.memory_QSD), 1, self.num_tokens, 1)

    def _next_position(self) -> Tensor:
        # The table, which may grow here, is the model's: what inference mode makes cannot be learnt with.
        return self.decoder.positions.extended_to(self.num_tokens + 1)[self.num_tokens]

    def _read(self, ids_R: Tensor, position_D: Tensor) -> Tensor:
        x_RD = torch.add(position_D, torch.embedding(self.embedding, ids_R), alpha=self.scale)
        hidden_QWTW = self._hidden() if self.num_beams > 1 else None
        for layer in self.layers:
            x_RD = layer(x_RD, self.num_tokens, hidden_QWTW, self.no_mask, self.memory_mask_N1S)
        self.num_tokens += 1
        return x_RD

    def _hidden(self) -> Tensor:
        """What each beam does not see of the pool, for the token that is being read, (Q, W, T, W)."""
        if self.num_tokens == self.hidden_QWTW.shape[2]:
            self.hidden_QWTW = with_more_room(self.hidden_QWTW)
        self.hidden_QWTW[:, :, self.num_tokens] = self.newest_WW
        return self.hidden_QWTW[:, :, : self.num_tokens + 1]

    @torch.inference_mode()
    def follow(self, rows_R: Tensor) -> None:
        """Each beam goes on with what another of the same question has said."""
        self.hidden_QWTW = self.hidden_QWTW.flatten(0, 1).index_select(0, rows_R).view_as(self.hidden_QWTW)

    @torch.inference_mode()
    def keep(self, questions: Tensor) -> None:
        """Go on with these questions alone."""
        self.hidden_QWTW = self.hidden_QWTW.index_select(0, questions)
        if self.memory_mask_N1S is not self.no_mask:
            self.memory_mask_N1S = chosen(self.memory_mask_N1S, questions, self.num_heads)
        for layer in self.layers:
            layer.keep(questions)

    def write(self, cache: EncoderDecoderCache) -> None:
        """Add the keys and values of all rows and of their sources to an empty cache."""
        num_questions = len(self.hidden_QWTW)
        speaker_QWT = torch.zeros(num_questions, self.num_beams, self.num_tokens, dtype=torch.long, device="cpu")
        if self.num_beams > 1:
            # The one token of each place that is not hidden.
            speaker_QWT = self.hidden_QWTW[:, :, : self.num_tokens].argmax(-1)
        for index, layer in enumerate(self.layers):
            (keys, values), (memory_keys, memory_values) = layer.keys_and_values(speaker_QWT)
            cache.self_attention_cache.update(keys, values, index)
            cache.cross_attention_cache.update(memory_keys, memory_values, index)
            cache.is_updated[index] = True


class NextTokenLayer:
    """A layer of the decoder, for one new token of each row."""

    def __init__(self, layer: DecoderLayer, memory_QSD: Tensor, num_beams: int):
        own, cross, feed_forward = layer.self_attention, layer.cross_attention, layer.feed_forward
        num_questions, num_rows = len(memory_QSD), len(memory_QSD) * num_beams
        self.num_beams, self.num_heads = num_beams, own.num_heads
        self.own_products = [product_with(each, num_rows) for each in (own.query, own.key, own.value, own.output)]
        self.cross_products = [product_with(each, num_rows) for each in (cross.query, cross.output)]
        self.inner, self.outer = (product_with(each, num_rows) for each in (feed_forward.inner, feed_forward.output))
        self.activation = feed_forward.activation.forward
        self.norms = [
            (norm.normalized_shape, norm.weight, norm.bias, norm.eps)
            for norm in (layer.self_attention_norm, layer.cross_attention_norm, layer.feed_forward_norm)
        ]
        self.own_scaling, self.cross_scaling = own.scaling, cross.scaling
        self.pattern = pattern_of(own.config, own.layer_index, is_causal=True)
        self.num_channels = own.config.d_model // own.num_heads
        memory_XD = memory_QSD.flatten(0, 1)
        keys_NSC, self.memory_values_NSC = (
            cross.split_heads(product_with(linear, len(memory_XD))(memory_XD).view_as(memory_QSD)).flatten(0, 1)
            for linear in (cross.key, cross.value)
        )
        self.memory_keys_NCS = keys_NSC.transpose(1, 2)
        empty_QHTWC = memory_QSD.new_empty(num_questions, self.num_heads, 0, num_beams, self.num_channels)
        self._use(empty_QHTWC, empty_QHTWC)

    def _use(self, keys_QHTWC: Tensor, values_QHTWC: Tensor) -> None:
        """Keep the tokens' keys and values in these two pools, which have room for T tokens."""
        self.pools = keys_QHTWC, values_QHTWC
        self.slots = keys_QHTWC.unbind(2), values_QHTWC.unbind(2)
        self.keys_NCK = keys_QHTWC.flatten(0, 1).flatten(1, 2).transpose(1, 2)
        self.values_NKC = values_QHTWC.flatten(0, 1).flatten(1, 2)

    def __call__(
        self, x_RD: Tensor, place: int, hidden_QWTW: Tensor | None, no_mask: Tensor, memory_mask_N1S: Tensor
    ) -> Tensor:
        """Read the tokens of a place, the number of those before them."""
        query, key, value, output = self.own_products
        if place == len(self.slots[0]):
            self._use(*map(with_more_room, self.pools))
        self.slots[0][place].copy_(self.by_head(key(x_RD)))
        self.slots[1][place].copy_(self.by_head(value(x_RD)))
        attended_RD = self.attend(query(x_RD), *self.seen(place + 1, hidden_QWTW, no_mask), self.own_scaling)
        x_RD = torch.layer_norm(x_RD + output(attended_RD), *self.norms[0])
        query, output = self.cross_products
        attended_RD = self.attend(
            query(x_RD), self.memory_keys_NCS, self.memory_values_NSC, memory_mask_N1S, self.cross_scaling
        )
        x_RD = torch.layer_norm(x_RD + output(attended_RD), *self.norms[1])
        return torch.layer_norm(x_RD + self.outer(self.activation(self.inner(x_RD))), *self.norms[2])

    def begin_with(self, keys_QHTC: Tensor, values_QHTC: Tensor) -> None:
        """Take the keys and values of the first tokens, which all beams have said."""
        self._use(*(x.unsqueeze(3).repeat(1, 1, 1, self.num_beams, 1) for x in (keys_QHTC, values_QHTC)))

    def by_head(self, x_RD: Tensor) -> Tensor:
        """(R, D) to (Q, H, W, C)."""
        x_QWHC = x_RD.view(-1, self.num_beams, self.num_heads, self.num_channels)
        return x_QWHC.transpose(1, 2)

    def seen(self, num_tokens: int, hidden_QWTW: Tensor | None, no_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The keys, (N, C, K), and values, (N, K, C), that the newest token looks at, and what each beam ignores."""
        num_seen = num_tokens * self.num_beams
        if self.pattern is None:
            keys_NCK, values_NKC = self.keys_NCK.narrow(2, 0, num_seen), self.values_NKC.narrow(1, 0, num_seen)
        else:
            keys_QHTX, values_QHTX = (
                self.pattern.seen_by_last(pool.narrow(2, 0, num_tokens).flatten(3)) for pool in self.pools
            )
            shape_NKC = len(self.keys_NCK), -1, self.num_channels
            keys_NCK, values_NKC = keys_QHTX.reshape(shape_NKC).transpose(1, 2), values_QHTX.reshape(shape_NKC)
            if hidden_QWTW is not None:
                hidden_QWTW = self.pattern.seen_by_last(hidden_QWTW)
        if hidden_QWTW is None:
            return keys_NCK, values_NKC, no_mask
        hidden_QWK = hidden_QWTW.flatten(2)
        if len(hidden_QWK) > 1:
            hidden_QWK = hidden_QWK.repeat_interleave(self.num_heads, 0)
        return keys_NCK, values_NKC, hidden_QWK

    def attend(
        self, query_RD: Tensor, keys_NCK: Tensor, values_NKC: Tensor, mask_NWK: Tensor, scaling: float
    ) -> Tensor:
        """Equation 1 for one query of each head and row, (R, D), with `mask_NWK` added to the scores."""
        if self.num_beams == 1:
            query_NWC = query_RD.view(-1, 1, self.num_channels)
        else:
            query_NWC = self.by_head(query_RD).flatten(0, 1)
        weights_NWK = torch.baddbmm(mask_NWK, query_NWC, keys_NCK, alpha=scaling).softmax(-1)
        attended_NWC = torch.bmm(weights_NWK, values_NKC)
        if self.num_beams == 1:
            return attended_NWC.view_as(query_RD)
        return attended_NWC.unflatten(0, (-1, self.num_heads)).transpose(1, 2).reshape(query_RD.shape)

    def keep(self, questions: Tensor) -> None:
        """Go on with these questions alone."""
        self._use(*(pool_QHTWC.index_select(0, questions) for pool_QHTWC in self.pools))
        self.memory_keys_NCS = chosen(self.memory_keys_NCS, questions, self.num_heads)
        self.memory_values_NSC = chosen(self.memory_values_NSC, questions, self.num_heads)

    def keys_and_values(self, speaker_QWT: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """
        The keys and values of the tokens, (R, H, T, C), and of the sources, (R, H, S, C).

        speaker_QWT: which beam has said the tokens that a beam has.
        """
        question_Q11 = torch.arange(len(speaker_QWT), device="cpu")[:, None, None]
        token_T = torch.arange(speaker_QWT.shape[2], device="cpu")
        own = [
            pool_QHTWC.permute(0, 2, 3, 1, 4)[question_Q11, token_T, speaker_QWT].transpose(2, 3).flatten(0, 1)
            for pool_QHTWC in self.pools
        ]
        memory = [
            x_NSC.unflatten(0, (-1, self.num_heads)).repeat_interleave(self.num_beams, 0)
            for x_NSC in (self.memory_keys_NCS.transpose(1, 2), self.memory_values_NSC)
        ]
        return own, memory


def with_more_room(pool: Tensor) -> Tensor:
    """The pool of tokens, whose third axis they are, with room for at least twice as many."""
    shape = list(pool.shape)
    shape[2] = max(FIRST_CAPACITY, 2 * shape[2])
    larger = pool.new_empty(shape)
    larger[:, :, : pool.shape[2]] = pool
    return larger


def chosen(x_NXX: Tensor, questions: Tensor, num_heads: int) -> Tensor:
    """The heads of some questions."""
    return x_NXX.unflatten(0, (-1, num_heads)).index_select(0, questions).flatten(0, 1)


def product_with(linear: nn.Linear, num_rows: int) -> Callable[[Tensor], Tensor]:
    """The layer as a function of (R, D), by the library that is faster for `num_rows` rows."""
    weight, bias = linear.weight, linear.bias
    if weight.dtype == torch.float32 and num_rows * weight.numel() >= LEAST_ONEDNN_WORK and HAS_ONEDNN:
        if num_rows >= LEAST_PACKED_ROWS or (num_rows > 1 and weight.numel() >= LEAST_PACKED_WEIGHT):
            weight = packed_weight(linear)
        return lambda x: onednn_product(x, weight, bias)
    transposed = weight.t()
    if bias is None:
        return lambda x: torch.mm(x, transposed)
    return lambda x: torch.addmm(bias, x, transposed)
