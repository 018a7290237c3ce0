"""
The peers' networks, of the same sizes as a Chatformer.

Marian needs no code here: `chatformer.hub.formats.marian_format.to_marian` makes a MarianMTModel of a Chatformer, which
is the same network.
"""

import math
from typing import Any

import torch
from torch import nn
from transformers import BartConfig, BartForConditionalGeneration
from transformers.modeling_outputs import Seq2SeqLMOutput

from chatformer.embedding import sinusoids


def new_bart(config: Any, attn_implementation: str) -> BartForConditionalGeneration:
    """A BART with random weights; unlike ours, it has learnt positions and normalised embeddings."""
    bart = BartForConditionalGeneration(
        BartConfig(
            vocab_size=config.vocab_size,
            d_model=config.d_model,
            encoder_layers=config.encoder_layers,
            decoder_layers=config.decoder_layers,
            encoder_attention_heads=config.num_heads,
            decoder_attention_heads=config.num_heads,
            encoder_ffn_dim=config.d_ff,
            decoder_ffn_dim=config.d_ff,
            activation_function=config.activation,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            activation_dropout=config.activation_dropout,
            scale_embedding=True,
            pad_token_id=config.pad_token_id,
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            decoder_start_token_id=config.decoder_start_token_id,
            forced_eos_token_id=None,
        )
    )
    bart.set_attn_implementation(attn_implementation)
    return bart


class TorchTransformer(nn.Module):
    """
    The same network around `torch.nn.Transformer`.

    If tied, source, target and output share one matrix of embeddings, as in a Chatformer; if untied, each has its own.
    """

    positions: torch.Tensor

    def __init__(self, config: Any, *, tied: bool):
        super().__init__()
        self.scale = math.sqrt(config.d_model)
        self.source_embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.target_embedding = self.source_embedding if tied else nn.Embedding(config.vocab_size, config.d_model)
        self.register_buffer("positions", sinusoids(config.max_position_embeddings, config.d_model).float())
        self.dropout = nn.Dropout(config.dropout)
        self.transformer = nn.Transformer(
            d_model=config.d_model,
            nhead=config.num_heads,
            num_encoder_layers=config.encoder_layers,
            num_decoder_layers=config.decoder_layers,
            dim_feedforward=config.d_ff,
            dropout=config.dropout,
            activation=config.activation,
            layer_norm_eps=config.layer_norm_eps,
            batch_first=True,
        )
        self.output = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if tied:
            self.output.weight = self.source_embedding.weight
        for matrix in {self.source_embedding.weight, self.target_embedding.weight, self.output.weight}:
            nn.init.normal_(matrix, std=config.initializer_range)
        # It has two norms and three kinds of dropout that are not in the paper.
        self.transformer.encoder.norm = self.transformer.decoder.norm = None
        for layer in (*self.transformer.encoder.layers, *self.transformer.decoder.layers):
            layer.dropout = nn.Identity()
            layer.self_attn.dropout = 0.0
        for layer in self.transformer.decoder.layers:
            layer.multihead_attn.dropout = 0.0

    def embed(self, embedding: nn.Embedding, ids_BT: torch.Tensor) -> torch.Tensor:
        return self.dropout(embedding(ids_BT) * self.scale + self.positions[: ids_BT.shape[1]])

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, decoder_input_ids: torch.Tensor
    ) -> Seq2SeqLMOutput:
        is_padding_BS = attention_mask == 0
        is_ahead_TT = torch.ones(2 * decoder_input_ids.shape[1:], dtype=torch.bool, device=input_ids.device).triu(1)
        # Padding comes after the target's tokens, which do not look ahead, so it needs no mask.
        hidden_BTD = self.transformer(
            self.embed(self.source_embedding, input_ids),
            self.embed(self.target_embedding, decoder_input_ids),
            tgt_mask=is_ahead_TT,
            src_key_padding_mask=is_padding_BS,
            memory_key_padding_mask=is_padding_BS,
            tgt_is_causal=True,
        )
        return Seq2SeqLMOutput(logits=self.output(hidden_BTD))
