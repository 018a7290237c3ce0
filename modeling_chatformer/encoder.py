"""
The encoder: Section 3.1 of "Attention Is All You Need".

Letters after a tensor's name are its axes: B batch, S source tokens, D d_model.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple

from .attention import MultiHeadAttention
from .configuration_chatformer import ChatformerConfig
from .embedding import ScaledEmbedding, SinusoidalPositions, positions_of
from .feed_forward import FeedForward
from .layer_stack import LayerStack
from .pretrained import ChatformerPreTrainedModel
from .sparse_attention import SparseAttention, sparse_masks


class EncoderLayer(GradientCheckpointingLayer):
    """Self-attention, then the feed-forward network, each as LayerNorm(x + Sublayer(x))."""

    def __init__(self, config: ChatformerConfig, layer_index: int):
        super().__init__()
        kind = MultiHeadAttention if config.self_attention == "full" else SparseAttention
        self.attention = kind(config, layer_index)
        self.attention_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Any, output_attentions: bool = False) -> tuple[Tensor, Tensor | None]:
        attended, weights = self.attention(x, x, mask, output_attentions=output_attentions)
        x = self.attention_norm(x + self.dropout(attended))
        x = self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))
        return x, weights


class Encoder(ChatformerPreTrainedModel):
    """Turns a source into one vector for each token: embeddings and positions, then the layers."""

    def __init__(self, config: ChatformerConfig):
        super().__init__(config)
        self.embedding = ScaledEmbedding(config.vocab_size, config.d_model)
        self.positions = SinusoidalPositions(config.max_position_embeddings, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = LayerStack(EncoderLayer(config, index) for index in range(config.encoder_layers))
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
        """
        Encode `input_ids`, (B, S), or `inputs_embeds`, (B, S, D), which are scaled already.

        attention_mask: (B, S), 1 for tokens and 0 for padding on either side.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("The encoder takes either input_ids or inputs_embeds: give exactly one of them.")
        if inputs_embeds is None:
            inputs_embeds = self.embedding(input_ids)
        num_tokens = inputs_embeds.shape[1]
        if attention_mask is not None and attention_mask.dim() == 2:
            position_ids_BS = positions_of(attention_mask)
        else:
            position_ids_BS = torch.arange(num_tokens, device=inputs_embeds.device).unsqueeze(0)

        # One for all layers, or one for each of the sets that sparse layers have in turn.
        if self.config.self_attention == "full":
            masks: Any = [create_bidirectional_mask(self.config, inputs_embeds, attention_mask)]
        else:
            masks = sparse_masks(
                self.config, inputs_embeds, attention_mask, is_causal=False, output_attentions=output_attentions
            )
        x_BSD = self.dropout(inputs_embeds + self.positions(position_ids_BS, num_tokens))
        x_BSD, hidden_states, attentions = self.layers(
            x_BSD, masks, output_hidden_states=output_hidden_states, output_attentions=output_attentions
        )
        return BaseModelOutput(
            last_hidden_state=x_BSD,
            hidden_states=hidden_states,
            attentions=tuple(weights for (weights,) in attentions) if output_attentions else None,
        )
