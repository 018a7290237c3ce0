"""
The decoder: Section 3.1 of "Attention Is All You Need".

Letters behind a tensor's name are its axes: B batch, S source tokens, T target tokens, D d_model.
"""

import torch
from torch import nn
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.utils import can_return_tuple

from .attention import CrossAttention, MaskedSelfAttention
from .embedding import ScaledEmbedding, SinusoidalPositions, positions_of
from .feed_forward import FeedForward


class DecoderLayer(GradientCheckpointingLayer):
    """Masked self-attention, attention to the encoder's output, then the feed-forward network, all post-norm."""

    def __init__(self, config, layer_index):
        super().__init__()
        self.self_attention = MaskedSelfAttention(config, layer_index)
        self.self_attention_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)
        self.cross_attention = CrossAttention(config, layer_index)
        self.cross_attention_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x, mask, memory, memory_mask, past_key_values=None, output_attentions=False):
        attended, self_weights = self.self_attention(x, x, mask, past_key_values, output_attentions)
        x = self.self_attention_norm(x + self.dropout(attended))
        attended, cross_weights = self.cross_attention(x, memory, memory_mask, past_key_values, output_attentions)
        x = self.cross_attention_norm(x + self.dropout(attended))
        x = self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))
        return x, self_weights, cross_weights


class Decoder(nn.Module):
    """Turn the target so far and the encoder's output into one vector for each next token."""

    main_input_name = "input_ids"

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embedding = ScaledEmbedding(config.vocab_size, config.d_model)
        self.positions = SinusoidalPositions(config.max_position_embeddings, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(DecoderLayer(config, index) for index in range(config.decoder_layers))

    def has_plain_masks(self, cache):
        """Return whether masks are tensors, or None where they hide nothing, and the cache grows with its tokens."""
        return self.config._attn_implementation in ("eager", "sdpa") and not (cache and cache.is_compileable)

    def memory_mask(self, inputs_embeds, encoder_attention_mask, encoder_hidden_states, cache):
        """Return the mask of the source's tokens. It is made once for all tokens of a generation, as their keys are."""
        if cache is not None and getattr(cache, "masked_by", None) is encoder_attention_mask is not None:
            return cache.memory_mask
        mask = create_bidirectional_mask(
            self.config, inputs_embeds, encoder_attention_mask, encoder_hidden_states=encoder_hidden_states
        )
        if cache is not None and self.has_plain_masks(cache):
            # The rows are alike, one for each target token that was new just now.
            cache.masked_by, cache.memory_mask = encoder_attention_mask, None if mask is None else mask[:, :, :1]
        return mask

    @can_return_tuple
    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=False,
        output_attentions=False,
        output_hidden_states=False,
    ):
        """
        Decode `input_ids`, (B, T), or `inputs_embeds`, (B, T, D), already scaled.

        attention_mask: (B, earlier tokens + T), 1 for tokens and 0 for padding on either side.
        encoder_hidden_states: (B, S, D), what the encoder made of the source, and its mask, (B, S).
        past_key_values: the `EncoderDecoderCache` of the tokens before these, which is extended.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError(
                "The decoder takes either decoder_input_ids or decoder_inputs_embeds: give exactly one of them."
            )
        if inputs_embeds is None:
            inputs_embeds = self.embedding(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = EncoderDecoderCache(DynamicCache(config=self.config), DynamicCache(config=self.config))
        target_cache = None if past_key_values is None else past_key_values.self_attention_cache

        num_new = inputs_embeds.shape[1]
        num_earlier = 0 if target_cache is None else target_cache.get_seq_length()
        if position_ids is None:
            if attention_mask is not None and attention_mask.dim() == 2:
                position_ids = positions_of(attention_mask)[:, -num_new:]
            elif isinstance(num_earlier, int):
                position_ids = slice(num_earlier, num_earlier + num_new)
            else:
                position_ids = torch.arange(num_new, device=inputs_embeds.device).unsqueeze(0) + num_earlier
        # A cache of fixed size counts its tokens on the device; its size is the bound that is known without waiting.
        num_positions = num_new if target_cache is None else target_cache.get_mask_sizes(num_new, 0)[0]

        if num_new == 1 and attention_mask is None and self.has_plain_masks(target_cache):
            # A single new token looks at all that stand before it.
            mask = None
        else:
            # With weights to show, the eager attention runs, which needs the mask even where others would do without.
            mask = create_causal_mask(
                self.config, inputs_embeds, attention_mask, target_cache, allow_is_causal_skip=not output_attentions
            )
        memory_mask = self.memory_mask(inputs_embeds, encoder_attention_mask, encoder_hidden_states, past_key_values)
        x_BTD = self.dropout(inputs_embeds + self.positions(position_ids, num_positions))
        hidden_states, self_attentions, cross_attentions = (x_BTD,), (), ()
        for layer in self.layers:
            x_BTD, self_weights, cross_weights = layer(
                x_BTD,
                mask,
                # By position, or gradient checkpointing would miss it.
                encoder_hidden_states,
                memory_mask,
                past_key_values=past_key_values,
                output_attentions=output_attentions,
            )
            hidden_states += (x_BTD,)
            self_attentions += (self_weights,)
            cross_attentions += (cross_weights,)
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=x_BTD,
            past_key_values=past_key_values if use_cache else None,
            hidden_states=hidden_states if output_hidden_states else None,
            attentions=self_attentions if output_attentions else None,
            cross_attentions=cross_attentions if output_attentions else None,
        )
