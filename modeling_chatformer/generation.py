"""
What `generate()` asks of the Transformer: the inputs for the next token, and which decoder and search find it.

Letters after a tensor's name are its axes: B batch, S source tokens, T target tokens, Q questions, R rows, one for each
beam of each question.
"""

import functools
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from torch import Tensor
from transformers.cache_utils import DynamicLayer, EncoderDecoderCache
from transformers.generation import GenerateBeamEncoderDecoderOutput, GenerateEncoderDecoderOutput
from transformers.masking_utils import create_bidirectional_mask

from .embedding import positions_of
from .fast_beam_search import beam_search
from .fast_decoding import NextToken, is_inference, is_plain
from .fast_search import TokenByToken, sample
from .seq2seq import ConditionalGenerationMixin


class MemoryMask(NamedTuple):
    """A source's mask, and the same as the layers take it, or None if it hides nothing."""

    attention_mask_BS: Tensor | None
    memory_mask_B11S: Tensor | None


MEMORY_MASKS: WeakKeyDictionary[EncoderDecoderCache, MemoryMask] = WeakKeyDictionary()
"""The mask of the source that each cache belongs to."""

SEARCH_OPTIONS = frozenset({"logits_processor", "stopping_criteria", "generation_config", "streamer"})
"""What `generate()` hands to a search that is not for the model's inputs."""

USUAL_INPUTS = frozenset({"attention_mask", "encoder_outputs", "past_key_values", "use_cache", "tokenizer"})
"""What a token needs, as far as the decoder without modules knows it. With any other input the modules run."""

OVERRIDABLE = (
    *("forward", "prepare_inputs_for_generation", "_update_model_kwargs_for_generation", "_reorder_cache", "_prefill"),
    *("_has_unfinished_sequences", "_get_top_k_continuations", "_get_running_beams_for_next_iteration"),
    *("_update_finished_beams", "_check_early_stop_heuristic", "_beam_search_has_unfinished_sequences"),
)
"""Methods that transformers' searches call: a model of another class may change by them what is generated."""


def memory_mask_of(
    model: Any, cache: EncoderDecoderCache, memory_BSD: Tensor, attention_mask_BS: Tensor | None
) -> MemoryMask | None:
    """
    The mask that the tokens of `cache` share, made once per generation; None if masks depend on the size of the cache.

    attention_mask_BS: the same object for all tokens of a generation.
    """
    known = MEMORY_MASKS.get(cache)
    # A cache that was reset reads its next source, perhaps under the same mask.
    if known is not None and known.attention_mask_BS is attention_mask_BS and cache.is_updated.get(0):
        return known
    if model.config._attn_implementation not in ("eager", "sdpa") or cache.is_compileable:
        return None
    MEMORY_MASKS[cache] = made = MemoryMask(attention_mask_BS, layer_mask(model, memory_BSD, attention_mask_BS))
    return made


def layer_mask(model: Any, memory_BSD: Tensor, attention_mask_BS: Tensor | None) -> Any:
    """A source's mask as the layers take it."""
    return create_bidirectional_mask(
        model.config, memory_BSD[:, :1], attention_mask_BS, encoder_hidden_states=memory_BSD
    )


@functools.cache
def usual_methods() -> dict[str, Any]:
    """The methods of `OVERRIDABLE` as the models here have them; versions of transformers differ in some."""
    return {name: getattr(ChatformerGenerationMixin, name, None) for name in OVERRIDABLE}


def is_new_and_dynamic(past: Any) -> bool:
    """True for the cache that `generate()` has just made unless it is asked for another one."""
    if type(past) is not EncoderDecoderCache or getattr(past, "_is_user_defined", False):
        return False
    parts = past.self_attention_cache, past.cross_attention_cache
    return not any(
        part.offloading or part.get_seq_length() or {type(layer) for layer in part.layers} - {DynamicLayer}
        for part in parts
    )


class ChatformerGenerationMixin(ConditionalGenerationMixin):
    """`generate()` with forced prefixes, and on a CPU with the fast decoder and its searches."""

    def fast_next_token(
        self, memory_QSD: Tensor, memory_mask_Q11S: Tensor | None, num_beams: int
    ) -> TokenByToken | None:
        """The decoder without modules, or None if the model is not plain."""
        decoder, head = self.model.decoder, self.lm_head
        if not is_plain(self, decoder, head):
            return None
        return NextToken(decoder, head, memory_QSD, memory_mask_Q11S, num_beams)

    def _fast_next_token_for(self, ids_RT: Tensor, inputs: dict[str, Any]) -> TokenByToken | None:
        """The decoder without modules for a generation, or None if it asks for what only the modules give."""
        unusual = inputs.keys() - SEARCH_OPTIONS - USUAL_INPUTS
        config = inputs["generation_config"]
        if (
            any(inputs[name] is not None and inputs[name] is not False for name in unusual)
            or not (inputs.get("use_cache") and is_new_and_dynamic(inputs.get("past_key_values")))
            or config.output_attentions
            or config.output_hidden_states
            or config.is_assistant
            or config.low_memory
            or config.prefill_chunk_size is not None
            or not (ids_RT.is_cpu and is_inference(self))
            or any(getattr(type(self), name, None) is not usual for name, usual in usual_methods().items())
            or not vars(self).keys().isdisjoint(OVERRIDABLE)
        ):
            return None
        num_beams, mask_RS = config.num_beams, inputs.get("attention_mask")
        memory_QSD = inputs["encoder_outputs"][0][::num_beams]
        mask_Q11S = layer_mask(self, memory_QSD, None if mask_RS is None else mask_RS[::num_beams])
        return self.fast_next_token(memory_QSD, mask_Q11S, num_beams)

    def _searched(self, search: Any, stock: Any, output_class: Any, ids_RT: Tensor, inputs: dict[str, Any]) -> Any:
        """What a search finds around the decoder without modules, or transformers' own around the modules."""
        next_token = self._fast_next_token_for(ids_RT, inputs)
        if next_token is None:
            return stock(ids_RT, **inputs)
        options = {name: inputs[name] for name in SEARCH_OPTIONS if name in inputs}
        found = search(next_token, ids_RT, **options)
        if not options["generation_config"].return_dict_in_generate:
            return found["sequences"]
        next_token.write(inputs["past_key_values"])
        return output_class(**found, past_key_values=inputs["past_key_values"])

    def _sample(self, input_ids: Tensor, **inputs: Any) -> Any:  # type: ignore[override]
        """What `generate()` calls for one beam."""
        stock: Any = super()
        return self._searched(sample, stock._sample, GenerateEncoderDecoderOutput, input_ids, inputs)

    def _beam_search(self, input_ids: Tensor, **inputs: Any) -> Any:  # type: ignore[override]
        """What `generate()` calls for several beams."""
        stock: Any = super()
        return self._searched(beam_search, stock._beam_search, GenerateBeamEncoderDecoderOutput, input_ids, inputs)

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, decoder_attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The inputs of `forward` for the target tokens, (B, T), without those in the cache."""
        if decoder_attention_mask is not None and decoder_attention_mask.dim() == 2:
            # Caches of fixed size widen the mask, which then no longer shows the padding before a forced prefix.
            kwargs["decoder_position_ids"] = positions_of(decoder_attention_mask)
        cache, encoder_outputs = kwargs.get("past_key_values"), kwargs.get("encoder_outputs")
        if isinstance(cache, EncoderDecoderCache) and encoder_outputs is not None:
            known = memory_mask_of(self, cache, encoder_outputs[0], kwargs.get("attention_mask"))
            if known is not None:
                kwargs["attention_mask"] = known.memory_mask_B11S
        inputs: Any = {"input_ids": input_ids, "decoder_attention_mask": decoder_attention_mask, **kwargs}
        return super().prepare_inputs_for_generation(**inputs)
