"""
An ensemble: Transformers that were trained from different first weights predict each token together.

The logits are the mean of the members' logits, so the probabilities are the members' geometric mean, normalised: what
one member alone believes counts little. It is one model for transformers: what its members compute stands side by
side, their vectors along the last axis and their attention's heads along the axis of heads.

Letters after a tensor's name are its axes: B batch, S source tokens, T target tokens, D d_model, M D of all members,
V vocabulary.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions
from transformers.utils import can_return_tuple

from .configuration_ensemble import EnsembleConfig
from .decoder import Decoder
from .embedding import ScaledEmbedding
from .encoder import Encoder
from .fast_decoding import NextToken, has_more, is_plain
from .fast_loss import fused_loss
from .fast_search import TokenByToken
from .generation import ChatformerGenerationMixin
from .pretrained import ChatformerPreTrainedModel, check_shows_attentions
from .seq2seq import EncoderDecoderMixin

if TYPE_CHECKING:
    # save_pretrained copies what is imported here: the folder's own pipeline.
    from .pipeline_chatformer import Seq2SeqChatPipeline  # noqa: F401

OWN_EMBEDDINGS = "The members of an ensemble keep their own embeddings: change them before it is made."


class EnsemblePreTrainedModel(ChatformerPreTrainedModel):
    """The base of an ensemble and its parts."""

    config: EnsembleConfig
    config_class = EnsembleConfig
    # The members' caches are made in each step, and whether they have read the source is a question to the cache.
    _can_compile_fullgraph = False

    def resize_token_embeddings(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError(OWN_EMBEDDINGS)


class EnsembleEmbedding(nn.Module):
    """The members' embeddings: (B, T) -> (B, T, M)."""

    def __init__(self, config: EnsembleConfig):
        super().__init__()
        self.members = nn.ModuleList(
            ScaledEmbedding(config.vocab_size, config.d_model) for _ in range(config.num_members)
        )

    @property
    def weight(self) -> Tensor:
        """The members' matrices side by side, (V, M), to look at."""
        return torch.cat(list(self.parameters()), -1)

    def forward(self, input_ids: Tensor) -> Tensor:
        return torch.cat([member(input_ids) for member in self.members], -1)


class EnsembleHead(nn.Module):
    """The mean of the members' output layers: (B, T, M) -> (B, T, V)."""

    def __init__(self, config: EnsembleConfig):
        super().__init__()
        self.members = nn.ModuleList(
            nn.Linear(config.d_model, config.vocab_size, bias=config.output_bias) for _ in range(config.num_members)
        )

    def forward(self, hidden_BTM: Tensor) -> Tensor:
        logits = [
            member(hidden) for member, hidden in zip(self.members, split(hidden_BTM, len(self.members)), strict=True)
        ]
        return mean(logits)


class EnsembleEncoder(EnsemblePreTrainedModel):
    """The members' encoders."""

    def __init__(self, config: EnsembleConfig):
        super().__init__(config)
        self.members = nn.ModuleList(Encoder(config) for _ in range(config.num_members))
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> BaseModelOutput:
        """Encode `input_ids`, (B, S), or `inputs_embeds`, (B, S, M), as `Encoder` does, to (B, S, M)."""
        num_members = len(self.members)
        outputs = [
            member(
                input_ids,
                attention_mask,
                embeds,
                output_attentions=output_attentions,
                output_hidden_states=output_hidden_states,
                return_dict=True,
            )
            for member, embeds in zip(self.members, split(inputs_embeds, num_members), strict=True)
        ]
        return BaseModelOutput(
            last_hidden_state=torch.cat([output.last_hidden_state for output in outputs], -1),
            hidden_states=joined([output.hidden_states for output in outputs], -1),
            attentions=joined([output.attentions for output in outputs], 1),
        )


class EnsembleDecoder(EnsemblePreTrainedModel):
    """The members' decoders, which share a cache: the layers of the first member come first."""

    def __init__(self, config: EnsembleConfig):
        super().__init__(config)
        self.members = nn.ModuleList(Decoder(config) for _ in range(config.num_members))
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Decode `input_ids`, (B, T), or `inputs_embeds`, (B, T, M), as `Decoder` does, to (B, T, M)."""
        num_members = len(self.members)
        if use_cache and past_key_values is None:
            past_key_values = EncoderDecoderCache(DynamicCache(config=self.config), DynamicCache(config=self.config))
        caches: Sequence[Any] = [None] * num_members
        if past_key_values is not None:
            caches = caches_of_members(past_key_values, num_members, self.config.decoder_layers)
        embeds, memories = split(inputs_embeds, num_members), split(encoder_hidden_states, num_members)
        outputs = [
            member(
                input_ids,
                attention_mask,
                position_ids,
                memories[index],
                encoder_attention_mask,
                caches[index],
                embeds[index],
                use_cache=use_cache,
                output_attentions=output_attentions,
                output_hidden_states=output_hidden_states,
                return_dict=True,
            )
            for index, member in enumerate(self.members)
        ]
        if past_key_values is not None:
            mark_as_read(past_key_values)
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=torch.cat([output.last_hidden_state for output in outputs], -1),
            past_key_values=past_key_values if use_cache else None,
            hidden_states=joined([output.hidden_states for output in outputs], -1),
            attentions=joined([output.attentions for output in outputs], 1),
            cross_attentions=joined([output.cross_attentions for output in outputs], 1),
        )


class EnsembleModel(EncoderDecoderMixin, EnsemblePreTrainedModel):
    """The members' encoders and decoders, each member with its own embedding for both, without the output layers."""

    def __init__(self, config: EnsembleConfig):
        super().__init__(config)
        # The configuration may have changed since it was checked.
        config.validate_architecture()
        self._tied_weights_keys = tied_weights(config.num_members)
        self.shared = EnsembleEmbedding(config)
        self.encoder = EnsembleEncoder(config)
        self.decoder = EnsembleDecoder(config)
        self.post_init()

    def check_shows_attentions(self) -> None:
        check_shows_attentions(self.config)

    def set_input_embeddings(self, value: Any) -> None:
        raise NotImplementedError(OWN_EMBEDDINGS)


class EnsembleNextToken:
    """The members' decoders for one new token of each row, without modules."""

    def __init__(self, members: Sequence[NextToken], num_layers: int):
        """num_layers: that each member has."""
        self.members, self.num_layers = members, num_layers

    def __call__(self, ids_R: Tensor) -> Tensor:
        """Read the newest token of each row; return the logits after it, (R, V)."""
        return mean([member(ids_R) for member in self.members])

    def read(self, ids_RT: Tensor) -> None:
        """Read the first tokens of each row, which are the same for all beams of a question."""
        for member in self.members:
            member.read(ids_RT)

    def follow(self, rows_R: Tensor) -> None:
        """Each beam goes on with what another of the same question has said."""
        for member in self.members:
            member.follow(rows_R)

    def keep(self, questions: Tensor) -> None:
        """Go on with these questions alone."""
        for member in self.members:
            member.keep(questions)

    def write(self, cache: EncoderDecoderCache) -> None:
        """Add the keys and values of all rows and of their sources to an empty cache."""
        caches = caches_of_members(cache, len(self.members), self.num_layers)
        for member, own in zip(self.members, caches, strict=True):
            member.write(own)
        mark_as_read(cache)


class EnsembleForConditionalGeneration(ChatformerGenerationMixin, EnsemblePreTrainedModel):
    """The ensemble with its members' output layers, each sharing its member's embedding, the loss and `generate()`."""

    plain_model_class = EnsembleModel

    def __init__(self, config: EnsembleConfig):
        super().__init__(config)
        heads = {f"lm_head.members.{index}.weight": embedding(index, "model.") for index in range(config.num_members)}
        self._tied_weights_keys = tied_weights(config.num_members, "model.") | heads
        self.model = EnsembleModel(config)
        self.lm_head = EnsembleHead(config)
        self.loss_function = fused_loss
        self.post_init()

    def fast_next_token(
        self, memory_QSD: Tensor, memory_mask_Q11S: Tensor | None, num_beams: int
    ) -> TokenByToken | None:
        decoder, head = self.model.decoder, self.lm_head
        if type(decoder) is not EnsembleDecoder or type(head) is not EnsembleHead:
            return None
        if has_more(decoder) or has_more(head):
            return None
        members = list(zip(decoder.members, head.members, split(memory_QSD, self.config.num_members), strict=True))
        if not all(is_plain(self, decoder, head) for decoder, head, _ in members):
            return None
        return EnsembleNextToken(
            [NextToken(decoder, head, memory, memory_mask_Q11S, num_beams) for decoder, head, memory in members],
            self.config.decoder_layers,
        )


def embedding(member: int, prefix: str) -> str:
    """The name of a member's embedding."""
    return f"{prefix}shared.members.{member}.weight"


def tied_weights(num_members: int, prefix: str = "") -> dict[str, str]:
    """Which weights of an ensemble are one: the embeddings of each member."""
    return {
        f"{prefix}{part}.members.{index}.embedding.weight": embedding(index, prefix)
        for part in ("encoder", "decoder")
        for index in range(num_members)
    }


def caches_of_members(cache: EncoderDecoderCache, num_members: int, num_layers: int) -> list[EncoderDecoderCache]:
    """Each member's layers of the cache, which both hold."""
    own, memory = (cache.self_attention_cache.layers, cache.cross_attention_cache.layers)
    if not len(own) == len(memory) == num_layers * num_members:
        raise ValueError(
            f"An ensemble's cache must have {num_layers * num_members} layers from the beginning, but it has "
            f"{len(own)}: make it with DynamicCache(config=model.config)."
        )
    parts = (slice(first, first + num_layers) for first in range(0, len(own), num_layers))
    # Which of them have the source's keys already, the new cache finds out.
    return [EncoderDecoderCache(Cache(layers=own[part]), Cache(layers=memory[part])) for part in parts]


def mark_as_read(cache: EncoderDecoderCache) -> None:
    """Mark the cache as one whose layers have the source's keys and values: its members' caches cannot."""
    cache.is_updated = dict.fromkeys(cache.is_updated, True)


def split(vectors: Tensor | None, num_members: int) -> Sequence[Any]:
    """Each member's part of vectors that stand side by side, or None for each."""
    return [None] * num_members if vectors is None else vectors.chunk(num_members, -1)


def joined(layers: Sequence[tuple[Tensor, ...] | None], axis: int) -> tuple[Tensor, ...] | None:
    """For each layer what the members have, side by side along `axis`."""
    if any(each is None for each in layers):
        return None
    return tuple(torch.cat(each, axis) for each in zip(*layers, strict=True))


def mean(logits: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(logits)).mean(0)


__all__ = ["EnsembleForConditionalGeneration", "EnsembleModel", "EnsemblePreTrainedModel"]
