"""
The Transformer of "Attention Is All You Need" (Vaswani et al., 2017, arXiv:1706.03762) as a transformers model.

The parts stand beside this file, in the order in which data meets them: embedding, attention, feed_forward, encoder,
decoder, loss; and fast_decoding, the decoder once more, as generate() repeats it. Letters behind a tensor's name are
its axes: B batch, S source tokens, T target tokens, V vocabulary.
"""

import inspect
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import Seq2SeqLMOutput, Seq2SeqModelOutput
from transformers.utils import can_return_tuple

from .configuration_chatformer import ChatformerConfig
from .decoder import Decoder
from .embedding import ScaledEmbedding, SinusoidalPositions, positions_of, sinusoids
from .encoder import Encoder
from .fast_decoding import next_token_of
from .loss import label_smoothed_cross_entropy

if TYPE_CHECKING:
    # save_pretrained takes along what is imported here: the folder's own pipeline.
    from .pipeline_chatformer import Seq2SeqChatPipeline  # noqa: F401


class ChatformerPreTrainedModel(PreTrainedModel):
    """What every Chatformer shares: its configuration, its first weights, and what transformers may do with it."""

    config: ChatformerConfig
    config_class = ChatformerConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["EncoderLayer", "DecoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def _init_weights(self, module):
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, SinusoidalPositions):
            # from_pretrained makes the model without memory first; what is not saved must be filled in again.
            init.copy_(module.table, sinusoids(*module.table.shape))

    def load_state_dict(self, *arguments, **options):
        """Load weights as torch does, also into a model that `to_empty` or `assign=True` gave its memory just now."""
        keys = super().load_state_dict(*arguments, **options)
        # Both leave one matrix where there are four names, and to_empty loses the table that is not saved.
        self.tie_weights()
        for module in self.modules():
            if isinstance(module, SinusoidalPositions):
                self._init_weights(module)
        return keys


class ChatformerModel(ChatformerPreTrainedModel):
    """Encoder and decoder with one embedding for both, without the output layer (Figure 1)."""

    _tied_weights_keys = {
        "encoder.embedding.weight": "shared.weight",
        "decoder.embedding.weight": "shared.weight",
    }

    def __init__(self, config):
        super().__init__(config)
        # The configuration may have been changed since it was made.
        config.validate_architecture()
        self.shared = ScaledEmbedding(config.vocab_size, config.d_model)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.post_init()

    def get_input_embeddings(self):
        return self.shared

    def set_input_embeddings(self, value):
        self.shared = self.encoder.embedding = self.decoder.embedding = value

    @can_return_tuple
    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        decoder_input_ids=None,
        decoder_attention_mask=None,
        decoder_position_ids=None,
        encoder_outputs=None,
        past_key_values=None,
        inputs_embeds=None,
        decoder_inputs_embeds=None,
        use_cache=None,
        output_attentions=None,
        output_hidden_states=None,
    ):
        """
        Encode the source and decode the target so far.

        input_ids: (B, S), attention_mask: (B, S), decoder_input_ids: (B, T). `encoder_outputs`, if given, stand for
        the source. Returns a `Seq2SeqModelOutput`, `last_hidden_state` (B, T, d_model).
        """
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_attentions and self.config._attn_implementation not in ("eager", "sdpa"):
            # Their masks are of other kinds, which the eager attention would misread.
            raise ValueError(
                "output_attentions needs attn_implementation 'eager' or 'sdpa', "
                f"but it is {self.config._attn_implementation!r}."
            )
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


def shift_right(labels_BT, decoder_start_token_id, pad_token_id):
    """Return what the decoder reads to predict `labels_BT`: the start token, then each label but the last."""
    shifted_BT = labels_BT.roll(1, dims=-1)
    shifted_BT[:, 0] = decoder_start_token_id
    return shifted_BT.masked_fill(shifted_BT == -100, pad_token_id)


class ChatformerForConditionalGeneration(ChatformerPreTrainedModel, GenerationMixin):
    """The whole Transformer: next-token logits from the shared embedding (Section 3.4), loss, and `generate()`."""

    accepts_loss_kwargs = True
    _tied_weights_keys = {
        "model.encoder.embedding.weight": "model.shared.weight",
        "model.decoder.embedding.weight": "model.shared.weight",
        "lm_head.weight": "model.shared.weight",
    }

    def __init__(self, config):
        super().__init__(config)
        self.model = ChatformerModel(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=config.output_bias)
        self.loss_function = label_smoothed_cross_entropy
        self.post_init()

    def get_input_embeddings(self):
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.model.set_input_embeddings(value)

    def _reorder_cache(self, past_key_values, beam_idx):
        """Have each beam go on from the one that it came of; all beams of a reply share its source as it is."""
        past_key_values.self_attention_cache.reorder_cache(beam_idx)
        return past_key_values

    def prepare_decoder_input_ids_from_labels(self, labels):
        """Return the decoder's input for `labels`, (B, T), as `DataCollatorForSeq2Seq` asks for it."""
        return shift_right(labels, self.config.decoder_start_token_id, self.config.pad_token_id)

    def prepare_inputs_for_generation(self, input_ids, decoder_attention_mask=None, **kwargs):
        _, next_token = getattr(kwargs.get("past_key_values"), "next_token", (None, None))
        if (
            next_token
            and decoder_attention_mask is None
            and kwargs.get("next_sequence_length") == 1
            and input_ids.is_cpu
        ):
            # All else stays as it was at the token before.
            for name in ("next_sequence_length", "is_first_iteration", "inputs_embeds", "labels"):
                kwargs.pop(name, None)
            return {"decoder_input_ids": input_ids[:, -1:], **kwargs}
        if decoder_attention_mask is not None and decoder_attention_mask.dim() == 2:
            # Caches of fixed size widen the mask, and padding before a forced prefix could no longer be told.
            kwargs["decoder_position_ids"] = positions_of(decoder_attention_mask)
        return super().prepare_inputs_for_generation(input_ids, decoder_attention_mask=decoder_attention_mask, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        decoder_input_ids=None,
        decoder_attention_mask=None,
        decoder_position_ids=None,
        encoder_outputs=None,
        past_key_values=None,
        inputs_embeds=None,
        decoder_inputs_embeds=None,
        labels=None,
        num_items_in_batch=None,
        use_cache=None,
        output_attentions=None,
        output_hidden_states=None,
        return_logits=True,
        # The loss's `label_smoothing` comes here: the stock Trainer takes any parameter with "label" in its name for
        # labels, and would evaluate no loss where it is not given.
        **loss_kwargs,
    ):
        """
        Predict each next target token, and with `labels` the loss of those predictions.

        input_ids: (B, S). labels: (B, T), -100 where no loss is wanted; without `decoder_input_ids` the decoder reads
        them shifted right. num_items_in_batch: the target tokens that the summed loss is divided by. Further
        keywords are the loss function's, `label_smoothing` and `rdrop_alpha`. Returns a `Seq2SeqLMOutput`, `logits`
        (B, T, V), unless `return_logits` is off: of all tensors it would be the largest, and the loss alone needs but
        a piece of it at a time.
        """
        if labels is not None:
            use_cache = False if use_cache is None else use_cache
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        elif loss_kwargs:
            raise TypeError(f"forward() takes {', '.join(map(repr, loss_kwargs))} only with labels, or not at all.")
        elif decoder_input_ids is None and decoder_inputs_embeds is None:
            raise ValueError(
                "The decoder has nothing to read: give labels, decoder_input_ids or decoder_inputs_embeds. "
                "The stock Trainer's label_smoothing_factor takes the labels away: make the collator with the model, "
                "DataCollatorForSeq2Seq(tokenizer, model=model), and it gives decoder_input_ids."
            )
        unusual = decoder_attention_mask, decoder_position_ids, decoder_inputs_embeds, labels
        if (
            (use_cache and encoder_outputs is not None and decoder_input_ids is not None)
            and (decoder_input_ids.shape[1] == 1 and type(self.model) is ChatformerModel)
            and not (output_attentions or output_hidden_states or any(each is not None for each in unusual))
        ):
            next_token = next_token_of(self, past_key_values, encoder_outputs[0], attention_mask)
            if next_token is not None:
                return Seq2SeqLMOutput(
                    logits=next_token(decoder_input_ids, past_key_values),
                    past_key_values=past_key_values,
                    encoder_last_hidden_state=encoder_outputs[0],
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
        loss, logits_BTV, hidden_BTD = None, None, outputs.last_hidden_state
        # What else may be in their places needs the logits of all tokens.
        is_plain = isinstance(self.lm_head, nn.Linear) and self.loss_function is label_smoothed_cross_entropy
        if return_logits or not is_plain:
            logits_BTV = self.lm_head(hidden_BTD)
        if labels is not None:
            predictions = logits_BTV
            if logits_BTV is None:
                predictions, loss_kwargs["head"] = hidden_BTD, self.lm_head
            loss = self.loss_function(predictions, labels, num_items_in_batch=num_items_in_batch, **loss_kwargs)
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

    # `generate()` asks for the signature of code from the Hub at every token; found here, it is not worked out anew.
    forward.__signature__ = inspect.signature(forward)

    def _upload_modified_files(self, working_dir, repo_id, *arguments, **options):
        """Upload what `push_to_hub` has saved, and with it the model card and the record of the training."""
        # Only Chatformer can write them, and it need not be installed where this file is.
        for companion in entry_points(group="chatformer.push_to_hub"):
            companion.load()(self.name_or_path, working_dir, repo_id, options.get("revision"))
        return super()._upload_modified_files(working_dir, repo_id, *arguments, **options)


__all__ = ["ChatformerForConditionalGeneration", "ChatformerModel", "ChatformerPreTrainedModel"]
