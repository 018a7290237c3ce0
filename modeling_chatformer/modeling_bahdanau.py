"""
Recurrent sequence to sequence, with the attention of Bahdanau et al. (2014, arXiv:1409.0473) and without.

    encoder    f_j = GRU(E x_j, f_{j-1}) and b_j = GRU(E x_j, b_{j+1}), there and back; h_j = [f_j; b_j]
    start      s_0 = tanh(W_s [f_S; b_1])
    attention  e_ij = v_a^T tanh(W_a s_{i-1} + U_a h_j), alpha_ij = softmax of e_ij over j, c_i = sum of alpha_ij h_j
    state      s_i = GRU([E y_{i-1}; c_i], s_{i-1})
    output     logits_i = E tanh(W_c [s_i; c_i])

`attention=False` leaves c_i out everywhere: the decoder then knows s_0 alone, as in sequence to sequence before this
paper. Both know s_0 from both directions, so that attention is all that distinguishes them.

This differs from the paper's appendix A.2: its output layer is a maxout of s_{i-1}, E y_{i-1} and c_i with a matrix of
its own, its source and target have an embedding each, its s_0 is made of b_1 alone, and its GRU applies the reset gate
before the product with the state, where torch's applies it after.

Letters after a tensor's name are its axes: B batch, S source tokens, T target tokens, M embedding, D state, A the layer
inside the attention, G the three gates of a GRU, all D wide.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions
from transformers.utils import can_return_tuple

from .bahdanau_state import state_in
from .configuration_bahdanau import BahdanauConfig
from .fast_loss import fused_loss
from .seq2seq import ConditionalGenerationMixin, EncoderDecoderMixin

if TYPE_CHECKING:
    # save_pretrained copies what is imported here: the folder's own pipeline.
    from .pipeline_chatformer import Seq2SeqChatPipeline  # noqa: F401


class BahdanauPreTrainedModel(PreTrainedModel):
    """The base of the recurrent models: configuration, initial weights, and the features that transformers may use."""

    config: BahdanauConfig
    config_class = BahdanauConfig
    base_model_prefix = "model"
    _input_embed_layer = "embedding"
    # Assisted generation takes tokens back, which a state cannot.
    _is_stateful = True

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            std = self.config.embedding_initializer_range
            init.normal_(module.weight, std=module.embedding_dim**-0.5 if std is None else std)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.GRU | nn.GRUCell):
            for name, weight in module.named_parameters():
                if name.startswith("bias"):
                    init.zeros_(weight)
                    continue
                for gate in weight.chunk(3):
                    # Orthogonal, a state neither fades nor grows by itself.
                    (init.orthogonal_ if "_hh" in name else init.xavier_uniform_)(gate)

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        """Load weights as torch does, also after `to_empty` and with `assign=True`, which untie the embeddings."""
        keys = super().load_state_dict(*arguments, **options)
        self.tie_weights()
        return keys


class BahdanauEncoder(BahdanauPreTrainedModel):
    """Turns a source into one annotation for each token, h_j: the states of two GRUs that meet there."""

    def __init__(self, config: BahdanauConfig):
        super().__init__(config)
        assert config.d_embedding is not None
        self.embedding = nn.Embedding(config.vocab_size, config.d_embedding)
        self.dropout = nn.Dropout(config.dropout)
        self.gru = nn.GRU(config.d_embedding, config.d_model, batch_first=True, bidirectional=True)
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
        Encode `input_ids`, (B, S), or `inputs_embeds`, (B, S, M), to annotations, (B, S, 2D).

        attention_mask: (B, S), 1 for tokens and 0 for padding on either side, which keeps the states as they are. So
        the first annotation ends with b_1, and the last one begins with f_S, wherever the padding is.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("The encoder takes either input_ids or inputs_embeds: give exactly one of them.")
        if inputs_embeds is None:
            inputs_embeds = self.embedding(input_ids)
        x_BSM = self.dropout(inputs_embeds)
        if attention_mask is None or bool(attention_mask.all()):
            memory_BSD2 = self.gru(x_BSM)[0]
        else:
            memory_BSD2 = self._without_padding(x_BSM, attention_mask.long())
        memory_BSD2 = self.dropout(memory_BSD2)
        return BaseModelOutput(
            last_hidden_state=memory_BSD2,
            hidden_states=(x_BSM, memory_BSD2) if output_hidden_states else None,
        )

    def _without_padding(self, x_BSM: Tensor, mask_BS: Tensor) -> Tensor:
        """The annotations of the tokens; where the mask is 0, each direction's state so far."""
        # The tokens first, in their order, wherever the padding is: only then can they be packed.
        order_BS = (1 - mask_BS).argsort(dim=1, stable=True)
        tokens_BSM = x_BSM.gather(1, order_BS.unsqueeze(-1).expand_as(x_BSM))
        lengths_B = mask_BS.sum(1).clamp(min=1).cpu()
        packed = pack_padded_sequence(tokens_BSM, lengths_B, batch_first=True, enforce_sorted=False)
        states_BSD2, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=mask_BS.shape[1])
        # Zeros, which both directions begin with, on both ends: state k is that of the k-th token.
        forward_BSD, backward_BSD = functional.pad(states_BSD2, (0, 0, 1, 1)).chunk(2, -1)
        num_read_BS1 = mask_BS.cumsum(1).unsqueeze(-1)
        next_BS1 = num_read_BS1 - mask_BS.unsqueeze(-1) + 1
        size = -1, -1, forward_BSD.shape[-1]
        return torch.cat(
            [forward_BSD.gather(1, num_read_BS1.expand(size)), backward_BSD.gather(1, next_BS1.expand(size))], -1
        )


class BahdanauDecoder(BahdanauPreTrainedModel):
    """Turns the target so far and the annotations into one vector for each next token."""

    def __init__(self, config: BahdanauConfig):
        super().__init__(config)
        assert config.d_embedding is not None and config.d_attention is not None
        M, D, A = config.d_embedding, config.d_model, config.d_attention
        self.embedding = nn.Embedding(config.vocab_size, M)
        self.dropout = nn.Dropout(config.dropout)
        self.start = nn.Linear(2 * D, D)
        num_context = 2 * D if config.attention else 0
        self.cell = nn.GRUCell(M + num_context, D)
        self.output = nn.Linear(D + num_context, M, bias=False)
        if config.attention:
            self.query = nn.Linear(D, A, bias=False)
            self.key = nn.Linear(2 * D, A, bias=False)
            self.score = nn.Linear(A, 1, bias=False)
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
        Decode `input_ids`, (B, T), or `inputs_embeds`, (B, T, M).

        attention_mask: (B, earlier tokens + T), 1 for tokens and 0 for padding on either side, which keeps the state.
        position_ids: without effect, as the order of the steps is the position. encoder_hidden_states: the annotations,
        (B, S, 2D). encoder_attention_mask: the source's mask, (B, S). past_key_values: the cache of the tokens before
        these; the state after these replaces theirs.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError(
                "The decoder takes either decoder_input_ids or decoder_inputs_embeds: give exactly one of them."
            )
        assert encoder_hidden_states is not None
        if inputs_embeds is None:
            inputs_embeds = self.embedding(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = EncoderDecoderCache(DynamicCache(), DynamicCache())
        memory_BSD2 = encoder_hidden_states
        cached = None if past_key_values is None else state_in(past_key_values)
        x_BTM = self.dropout(inputs_embeds)
        num_new = x_BTM.shape[1]

        # What is not recurrent is computed for all tokens at once, and only the rest in the loop.
        gates_of_inputs_BTG = functional.linear(x_BTM, self.cell.weight_ih[:, : x_BTM.shape[2]], self.cell.bias_ih)
        keys_BSA, values_BSG = self._source(memory_BSD2, past_key_values)
        is_padding_BS = None if encoder_attention_mask is None else encoder_attention_mask == 0
        is_token_BT1 = None if attention_mask is None else attention_mask[:, -num_new:].bool().unsqueeze(-1)
        state_BD: Tensor
        if cached is not None and cached.get_seq_length():
            state_BD = cached.keys  # type: ignore[assignment]
        else:
            D = self.config.d_model
            ends_BD2 = torch.cat([memory_BSD2[:, -1, :D], memory_BSD2[:, 0, D:]], -1)
            state_BD = torch.tanh(self.start(ends_BD2))

        states, weights = [], []
        for step in range(num_new):
            gates_of_input_BG = gates_of_inputs_BTG[:, step]
            if self.config.attention:
                weights_BS = self._attend(state_BD, keys_BSA, is_padding_BS)
                # W c_i = sum of alpha_ij W h_j, and all W h_j are known already.
                gates_of_context_BG = torch.bmm(weights_BS.unsqueeze(1), values_BSG).squeeze(1)
                gates_of_input_BG = gates_of_input_BG + gates_of_context_BG
                weights.append(weights_BS)
            next_BD = self._next_state(gates_of_input_BG, state_BD)
            state_BD = next_BD if is_token_BT1 is None else torch.where(is_token_BT1[:, step], next_BD, state_BD)
            states.append(state_BD)

        hidden_BTX = states_BTD = torch.stack(states, 1)
        weights_BTS = torch.stack(weights, 1) if weights else None
        if weights_BTS is not None:
            context_BTD2 = torch.bmm(weights_BTS, memory_BSD2.to(weights_BTS.dtype))
            hidden_BTX = torch.cat([states_BTD, context_BTD2], -1)
        hidden_BTM = self.dropout(torch.tanh(self.output(hidden_BTX)))
        if cached is not None:
            cached.update(state_BD, states_BTD)
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=hidden_BTM,
            past_key_values=past_key_values if use_cache else None,
            hidden_states=(x_BTM, states_BTD, hidden_BTM) if output_hidden_states else None,
            # With an axis of one head, as other models have them.
            cross_attentions=(weights_BTS.unsqueeze(1),) if output_attentions and weights_BTS is not None else None,
        )

    def _source(self, memory_BSD2: Tensor, cache: EncoderDecoderCache | None) -> tuple[Tensor, Tensor]:
        """U_a h_j, (B, S, A), and the products of h_j with the gates' weights, (B, S, G), once for each source."""
        if not self.config.attention:
            return memory_BSD2, memory_BSD2
        if cache is not None and cache.is_updated.get(0):
            layer: Any = cache.cross_attention_cache.layers[0]
            return layer.keys.squeeze(1), layer.values.squeeze(1)
        keys_BSA = self.key(memory_BSD2)
        values_BSG = functional.linear(memory_BSD2, self.cell.weight_ih[:, self.config.d_embedding :])
        if cache is not None:
            cache.cross_attention_cache.update(keys_BSA.unsqueeze(1), values_BSG.unsqueeze(1), 0)
            cache.is_updated[0] = True
        return keys_BSA, values_BSG

    def _attend(self, state_BD: Tensor, keys_BSA: Tensor, is_padding_BS: Tensor | None) -> Tensor:
        """alpha_i, (B, S): how much the next state takes of each annotation."""
        scores_BS = self.score(torch.tanh(self.query(state_BD).unsqueeze(1) + keys_BSA)).squeeze(-1)
        if is_padding_BS is not None:
            scores_BS = scores_BS.masked_fill(is_padding_BS, torch.finfo(scores_BS.dtype).min)
        return scores_BS.softmax(-1)

    def _next_state(self, gates_of_input_BG: Tensor, state_BD: Tensor) -> Tensor:
        """A GRU's next state, from the products with its input."""
        gates_of_state_BG = functional.linear(state_BD, self.cell.weight_hh, self.cell.bias_hh)
        reset, update, candidate = gates_of_input_BG.chunk(3, -1)
        reset_by_state, update_by_state, candidate_by_state = gates_of_state_BG.chunk(3, -1)
        reset = torch.sigmoid(reset + reset_by_state)
        update = torch.sigmoid(update + update_by_state)
        candidate = torch.tanh(candidate + reset * candidate_by_state)
        # Near 1, the update gate keeps the state.
        return candidate + update * (state_BD - candidate)


class BahdanauModel(EncoderDecoderMixin, BahdanauPreTrainedModel):
    """Encoder and decoder with one embedding for both, without the output layer."""

    _tied_weights_keys = {
        "encoder.embedding.weight": "shared.weight",
        "decoder.embedding.weight": "shared.weight",
    }

    def __init__(self, config: BahdanauConfig):
        super().__init__(config)
        # The configuration may have changed since it was checked.
        config.validate_architecture()
        assert config.d_embedding is not None
        self.shared = nn.Embedding(config.vocab_size, config.d_embedding)
        self.encoder = BahdanauEncoder(config)
        self.decoder = BahdanauDecoder(config)
        self.post_init()

    def check_shows_attentions(self) -> None:
        if not self.config.attention:
            raise ValueError("A model with attention=False has no attention to show: leave output_attentions out.")


class BahdanauForConditionalGeneration(ConditionalGenerationMixin, BahdanauPreTrainedModel):
    """The recurrent encoder-decoder with its output layer, which shares the embedding, its loss and `generate()`."""

    _tied_weights_keys = {
        "model.encoder.embedding.weight": "model.shared.weight",
        "model.decoder.embedding.weight": "model.shared.weight",
        "lm_head.weight": "model.shared.weight",
    }

    def __init__(self, config: BahdanauConfig):
        super().__init__(config)
        self.model = BahdanauModel(config)
        assert config.d_embedding is not None
        self.lm_head = nn.Linear(config.d_embedding, config.vocab_size, bias=False)
        self.loss_function = fused_loss
        self.post_init()


__all__ = ["BahdanauForConditionalGeneration", "BahdanauModel", "BahdanauPreTrainedModel"]
