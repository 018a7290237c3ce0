"""
The decoder: Section 3.1 of "Attention Is All You Need".

Letters after a tensor's name are its axes: B batch, S source tokens, T target tokens, D d_model.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.utils import can_return_tuple

from .attention import CrossAttention, MaskedSelfAttention
from .configuration_chatformer import ChatformerConfig
from .embedding import ScaledEmbedding, SinusoidalPositions, positions_of
from .feed_forward import FeedForward
from .layer_stack import LayerStack
from .pretrained import ChatformerPreTrainedModel
from .sparse_attention import MaskedSparseAttention, sparse_masks


class DecoderLayer(GradientCheckpointingLayer):
    """Masked self-attention, attention to the encoder's output, then the feed-forward network, all post-norm."""

    def __init__(self, config: ChatformerConfig, layer_index: int):
        super().__init__()
        kind = MaskedSelfAttention if config.self_attention == "full" else MaskedSparseAttention
        self.self_attention = kind(config, layer_index)
        self.self_attention_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)
        self.cross_attention = CrossAttention(config, layer_index)
        self.cross_attention_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        mask: Any,
        memory: Tensor,
        memory_mask: Tensor | None,
        past_key_values: EncoderDecoderCache | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        attended, self_weights = self.self_attention(x, x, mask, past_key_values, output_attentions)
        x = self.self_attention_norm(x + self.dropout(attended))
        attended, cross_weights = self.cross_attention(x, memory, memory_mask, past_key_values, output_attentions)
        x = self.cross_attention_norm(x + self.dropout(attended))
        x = self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))
        return x, self_weights, cross_weights


class Decoder(ChatformerPreTrainedModel):
    """Turns the target so far and the encoder's output into one vector for each next token."""

    def __init__(self, config: ChatformerConfig):
        super().__init__(config)
        self.embedding = ScaledEmbedding(config.vocab_size, config.d_model)
        self.positions = SinusoidalPositions(config.max_position_embeddings, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = LayerStack(DecoderLayer(config, index) for index in range(config.decoder_layers))
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
        """
        Decode `input_ids`, (B, T), or `inputs_embeds`, (B, T, D), which are scaled already.

        attention_mask: (B, earlier tokens + T), 1 for tokens and 0 for padding on either side.
        encoder_hidden_states: the encoder's output, (B, S, D). encoder_attention_mask: the source's mask, (B, S).
        past_key_values: the cache of the tokens before these; these are added to it.
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
        if position_ids is None and attention_mask is not None and attention_mask.dim() == 2:
            position_ids = positions_of(attention_mask)[:, -num_new:]
        elif position_ids is None:
            position_ids = torch.arange(num_new, device=inputs_embeds.device).unsqueeze(0) + num_earlier
        # A cache of fixed size counts its tokens on the device; its size is a bound that is known without waiting.
        num_positions = num_new if target_cache is None else target_cache.get_mask_sizes(num_new, 0)[0]

        # One for all layers, or one for each of the sets that sparse layers have in turn.
        if self.config.self_attention == "full":
            # To return weights the eager attention runs, which needs a mask even if all of it is causal.
            skip = not output_attentions
            masks: Any = [
                create_causal_mask(self.config, inputs_embeds, attention_mask, target_cache, allow_is_causal_skip=skip)
            ]
        else:
            masks = sparse_masks(
                self.config,
                inputs_embeds,
                attention_mask,
                is_causal=True,
                cache=target_cache,
                output_attentions=output_attentions,
            )
        memory = encoder_hidden_states
        memory_mask = create_bidirectional_mask(
            self.config, inputs_embeds, encoder_attention_mask, encoder_hidden_states=memory
        )
        x_BTD = self.dropout(inputs_embeds + self.positions(position_ids, num_positions))
        x_BTD, hidden_states, attentions = self.layers(
            x_BTD,
            masks,
            # By position, or gradient checkpointing would miss it.
            memory,
            memory_mask,
            past_key_values=past_key_values,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=x_BTD,
            past_key_values=past_key_values if use_cache else None,
            hidden_states=hidden_states,
            attentions=tuple(own for own, _ in attentions) if output_attentions else None,
            cross_attentions=tuple(cross for _, cross in attentions) if output_attentions else None,
        )
