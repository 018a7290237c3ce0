"""
What `generate()` asks of the Transformer: the inputs for the next token, and which decoder computes it.

Letters after a tensor's name are its axes: B batch, S source tokens, T target tokens.
"""

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from torch import Tensor
from transformers.cache_utils import EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask

from .embedding import positions_of
from .fast_decoding import NextToken, is_inference, is_plain
from .seq2seq import ConditionalGenerationMixin
from .seq2seq import NextToken as AnyNextToken


class Source(NamedTuple):
    """What all tokens of a generation share."""

    attention_mask_BS: Tensor | None
    memory_mask_B11S: Tensor | None
    """The same mask as the layers take it, or None if it hides nothing."""
    next_token: AnyNextToken | None
    """The decoder without modules, or None if the model is not plain."""


SOURCES: WeakKeyDictionary[EncoderDecoderCache, Source] = WeakKeyDictionary()
"""The source that each cache belongs to."""

# With any of these, the modules run.
UNUSUAL_INPUTS = frozenset(
    {"decoder_position_ids", "decoder_inputs_embeds", "output_attentions", "output_hidden_states"}
)
NOT_FOR_FORWARD = ("next_sequence_length", "is_first_iteration", "inputs_embeds", "labels")


def source_of(
    model: Any, cache: EncoderDecoderCache, memory_BSD: Tensor, attention_mask_BS: Tensor | None
) -> Source | None:
    """
    What the tokens of `cache` share, computed once per generation; None if masks depend on the size of the cache.

    attention_mask_BS: the same object for all tokens of a generation.
    """
    source = SOURCES.get(cache)
    # A cache that was reset reads its next source, perhaps under the same mask.
    if source is not None and source.attention_mask_BS is attention_mask_BS and cache.is_updated.get(0):
        return source
    if model.config._attn_implementation not in ("eager", "sdpa") or cache.is_compileable:
        return None
    memory_mask: Any = create_bidirectional_mask(
        model.config, memory_BSD[:, :1], attention_mask_BS, encoder_hidden_states=memory_BSD
    )
    next_token = model.fast_next_token(cache, memory_BSD, memory_mask) if is_inference(model) else None
    SOURCES[cache] = source = Source(attention_mask_BS, memory_mask, next_token)
    return source


class ChatformerGenerationMixin(ConditionalGenerationMixin):
    """`generate()` with forced prefixes and the fast decoder."""

    def fast_next_token(
        self, cache: EncoderDecoderCache, memory_BSD: Tensor, memory_mask_B11S: Tensor | None
    ) -> AnyNextToken | None:
        """The decoder without modules, or None if the model is not plain."""
        decoder, head = self.model.decoder, self.lm_head
        if not is_plain(self, decoder, head, cache):
            return None
        return NextToken(decoder, head, cache, memory_BSD, memory_mask_B11S)

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, decoder_attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """
        The inputs of `forward` for the target tokens, (B, T), without those in the cache.

        For one new token of a plain model they hold `next_token`, which computes the logits without modules.
        """
        if decoder_attention_mask is not None and decoder_attention_mask.dim() == 2:
            # Caches of fixed size widen the mask, which then no longer shows the padding before a forced prefix.
            kwargs["decoder_position_ids"] = positions_of(decoder_attention_mask)
        cache, encoder_outputs = kwargs.get("past_key_values"), kwargs.get("encoder_outputs")
        if isinstance(cache, EncoderDecoderCache) and encoder_outputs is not None:
            source = source_of(self, cache, encoder_outputs[0], kwargs.get("attention_mask"))
            if source is not None:
                num_new = kwargs.get("next_sequence_length") or input_ids.shape[1]
                if (
                    (source.next_token is not None and num_new == 1 and kwargs.get("use_cache"))
                    and (decoder_attention_mask is None and UNUSUAL_INPUTS.isdisjoint(kwargs))
                    and (input_ids.is_cpu and is_inference(self))
                ):
                    for name in NOT_FOR_FORWARD:
                        kwargs.pop(name, None)
                    return {"decoder_input_ids": input_ids[:, -1:], "next_token": source.next_token, **kwargs}
                kwargs["attention_mask"] = source.memory_mask_B11S
        inputs: Any = {"input_ids": input_ids, "decoder_attention_mask": decoder_attention_mask, **kwargs}
        return super().prepare_inputs_for_generation(**inputs)  # type: ignore[misc]
