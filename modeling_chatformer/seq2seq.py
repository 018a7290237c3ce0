"""
What all architectures share: an encoder-decoder, its output layer, its loss, and `generate()`.

Each architecture supplies an encoder and a decoder. Letters after a tensor's name are its axes: B batch, S source
tokens, T target tokens, V vocabulary.
"""

from typing import Any

from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.cache_utils import EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput, Seq2SeqModelOutput
from transformers.utils import can_return_tuple

from .fast_loss import fused_loss
from .loss import IGNORED


class EncoderDecoderMixin:
    """Encoder and decoder with one embedding for both, `shared`, without the output layer."""

    config: Any
    training: bool
    shared: nn.Module
    encoder: Any
    decoder: Any

    def get_input_embeddings(self) -> nn.Module:
        return self.shared

    def set_input_embeddings(self, value: Any) -> None:
        self.shared = self.encoder.embedding = self.decoder.embedding = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        decoder_position_ids: Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple[Tensor, ...] | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> Seq2SeqModelOutput:
        """
        Encode the source and decode the target so far.

        input_ids: (B, S), attention_mask: (B, S), decoder_input_ids: (B, T). encoder_outputs: the source, encoded
        already. Returns a `Seq2SeqModelOutput`, `last_hidden_state` (B, T, d_model).
        """
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_attentions:
            self.check_shows_attentions()
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids,
                attention_mask,
                inputs_embeds,
                output_attentions=output_attentions,
                output_hidden_states=output_hidden_states,
                return_dict=True,
            )
        decoder_outputs = self.decoder(
            decoder_input_ids,
            decoder_attention_mask,
            decoder_position_ids,
            encoder_outputs[0],
            attention_mask,
            past_key_values,
            decoder_inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        return Seq2SeqModelOutput(
            last_hidden_state=decoder_outputs.last_hidden_state,
            past_key_values=decoder_outputs.past_key_values,
            decoder_hidden_states=decoder_outputs.hidden_states,
            decoder_attentions=decoder_outputs.attentions,
            cross_attentions=decoder_outputs.cross_attentions,
            encoder_last_hidden_state=encoder_outputs[0],
            encoder_hidden_states=getattr(encoder_outputs, "hidden_states", None),
            encoder_attentions=getattr(encoder_outputs, "attentions", None),
        )

    def check_shows_attentions(self) -> None:
        """Raise a `ValueError` if attention weights cannot be shown."""
        raise NotImplementedError


def shift_right(labels_BT: Tensor, decoder_start_token_id: int, pad_token_id: int) -> Tensor:
    """What the decoder reads to predict `labels_BT`: the start token, then each label but the last."""
    shifted_BT = labels_BT.roll(1, dims=-1)
    shifted_BT[:, 0] = decoder_start_token_id
    return shifted_BT.masked_fill(shifted_BT == IGNORED, pad_token_id)


class ConditionalGenerationMixin(GenerationMixin):
    """From sources and labels to a loss, and `generate()` with beams that share their source."""

    config: Any
    model: Any
    lm_head: nn.Module
    loss_function: Any
    accepts_loss_kwargs = True

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: Any) -> None:
        self.model.set_input_embeddings(value)

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """The decoder's input for `labels`, (B, T), under the name that `DataCollatorForSeq2Seq` looks for."""
        # The configuration has checked both ids.
        return shift_right(labels, self.config.decoder_start_token_id, self.config.pad_token_id)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        decoder_position_ids: Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple[Tensor, ...] | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_logits: bool = True,
        # With `label_smoothing`. The stock Trainer takes every parameter with "label" in its name for labels, and
        # would evaluate no loss if one of them is missing.
        **loss_options: Any,
    ) -> Seq2SeqLMOutput:
        """
        Predict each next target token and, with `labels`, compute the loss of the predictions.

        input_ids: (B, S). labels: (B, T), -100 where no loss is wanted; without `decoder_input_ids` the decoder reads
        the labels shifted right. num_items_in_batch: the number of target tokens that divides the summed loss. Further
        keywords are options of the loss, `label_smoothing` and `rdrop_alpha`. Returns a `Seq2SeqLMOutput`. Without
        `return_logits`, its `logits`, (B, T, V), are left out: they are the largest tensor, and the loss needs only a
        chunk of them at a time.
        """
        if labels is not None:
            use_cache = False if use_cache is None else use_cache
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        elif loss_options:
            raise TypeError(f"forward() takes {', '.join(map(repr, loss_options))} only with labels, or not at all.")
        elif decoder_input_ids is None and decoder_inputs_embeds is None:
            raise ValueError(
                "The decoder has nothing to read: give labels, decoder_input_ids or decoder_inputs_embeds. "
                "The stock Trainer's label_smoothing_factor takes the labels away: make the collator with the model, "
                "DataCollatorForSeq2Seq(tokenizer, model=model), and it gives decoder_input_ids."
            )
        outputs = self.model(
            input_ids,
            attention_mask,
            decoder_input_ids,
            decoder_attention_mask,
            decoder_position_ids,
            encoder_outputs,
            past_key_values,
            inputs_embeds,
            decoder_inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        hidden_BTD = outputs.last_hidden_state
        loss, logits_BTV = None, None
        # Another loss or another output layer needs the logits of all tokens.
        needs_logits = not isinstance(self.lm_head, nn.Linear) or self.loss_function is not fused_loss
        if return_logits or needs_logits:
            logits_BTV = self.lm_head(hidden_BTD)
            if labels is not None:
                loss = self.loss_function(logits_BTV, labels, num_items_in_batch=num_items_in_batch, **loss_options)
        elif labels is not None:
            assert isinstance(self.lm_head, nn.Linear)
            loss = fused_loss(hidden_BTD, labels, num_items_in_batch, head=self.lm_head, **loss_options)
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits_BTV if return_logits else None,
            past_key_values=outputs.past_key_values,
            decoder_hidden_states=outputs.decoder_hidden_states,
            decoder_attentions=outputs.decoder_attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=outputs.encoder_last_hidden_state,
            encoder_hidden_states=outputs.encoder_hidden_states,
            encoder_attentions=outputs.encoder_attentions,
        )

    def prepare_inputs_for_generation(self, *arguments: Any, **inputs: Any) -> dict[str, Any]:
        """The inputs of `forward`: transformers hands on the tokenizer, too, which `stop_strings` needs."""
        for name in ("tokenizer", "assistant_tokenizer"):
            inputs.pop(name, None)
        prepared: dict[str, Any] = super().prepare_inputs_for_generation(*arguments, **inputs)  # type: ignore[misc]
        return prepared

    def _reorder_cache(self, past_key_values: EncoderDecoderCache, beam_idx: Any) -> EncoderDecoderCache:
        """Each beam continues the one that it came from. All beams of a reply share its source, which stays."""
        past_key_values.self_attention_cache.reorder_cache(beam_idx)
        return past_key_values
