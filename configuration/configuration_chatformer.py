"""The configuration of a Chatformer model, in the symbols of "Attention Is All You Need"."""

import math

from .configuration_seq2seq import Seq2SeqConfig

ACTIVATIONS = ("relu", "silu", "swish", "gelu")
SELF_ATTENTIONS = ("full", "strided", "fixed")

# What a saved folder says of itself, so that it loads with `trust_remote_code=True` where chatformer is not installed.
AUTO_MAP = {
    "AutoConfig": "configuration_chatformer.ChatformerConfig",
    "AutoModel": "modeling_chatformer.ChatformerModel",
    "AutoModelForSeq2SeqLM": "modeling_chatformer.ChatformerForConditionalGeneration",
}


def root_of(num_tokens):
    """The stride at which sparse attention to `num_tokens` tokens takes the least time: their root, rounded up."""
    return math.isqrt(num_tokens - 1) + 1


class ChatformerConfig(Seq2SeqConfig):
    r"""
    Describe an encoder-decoder Transformer; the defaults are the paper's base model (Table 3).

    vocab_size (`int`): Rows of the embedding that source, target and output share (Section 3.4).
    d_model (`int`): Width of the residual stream, even, a multiple of `num_heads`.
    d_ff (`int`, *optional*): Inner width of the feed-forward network (Section 3.3); `4 * d_model` unless given.
    num_heads (`int`): Attention heads, each of width `d_model / num_heads` (Section 3.2.2).
    encoder_layers (`int`): Layers of the encoder (Section 3.1).
    decoder_layers (`int`): Layers of the decoder; need not equal `encoder_layers`.
    dropout (`float`): Probability of dropping an element of each sub-layer's output and of the sums of embeddings
        and positions (Section 5.4).
    attention_dropout (`float`): The same for attention weights; the paper has none.
    activation_dropout (`float`): The same inside the feed-forward network; the paper has none.
    initializer_range (`float`): Standard deviation of the random first weights; the paper does not say its own.
    embedding_initializer_range (`float`, *optional*): The same for the embedding; `d_model**-0.5` unless given, so that
        embeddings times the root of `d_model` (Section 3.4) begin with a variance of 1. Smaller ones are lost among the
        positions at first, and the model listens later.
    activation (`str`): Nonlinearity of the feed-forward network: "relu" as in the paper, "silu" (its other name is
        "swish") or "gelu".
    output_bias (`bool`): Whether a learnt number is added to each token's logit; the paper has none.
    layer_norm_eps (`float`): Added to the variance in layer normalisation.
    self_attention (`str`): What a token looks at within its own sequence: "full" as in the paper, or "strided" or
        "fixed", the sparse sets of Child et al. (2019). From decoder to encoder, attention is always full.
    stride (`int`, *optional*): Their l: how many tokens are near, and how far apart the others are; the root of
        `max_position_embeddings` unless given. Good values are near the root of the length of the inputs.
    summary_size (`int`, *optional*): Their c, of "fixed": so many tokens at the end of each `stride` tokens are seen
        from everywhere; 8, or a quarter of `stride` if that is less, unless given.
    max_position_embeddings (`int`): Positions tabulated beforehand. Not a limit: longer inputs extend the table, but
        for what `torch.export` made, which refuses them.
    pad_token_id, bos_token_id, eos_token_id, decoder_start_token_id (`int`): Rows of the control tokens.

    Raises a `ValueError` that states the rule and what was found when values contradict each other.
    """

    model_type = "chatformer"
    own_code = AUTO_MAP
    attribute_map = {
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "encoder_layers",
        "layer_norm_epsilon": "layer_norm_eps",
    }

    d_model: int = 512
    d_ff: int | None = None
    num_heads: int = 8
    encoder_layers: int = 6
    decoder_layers: int = 6
    dropout: float | int = 0.1
    attention_dropout: float | int = 0.0
    activation_dropout: float | int = 0.0
    initializer_range: float = 0.02
    embedding_initializer_range: float | int | None = None
    activation: str = "relu"
    output_bias: bool = False
    layer_norm_eps: float = 1e-5
    self_attention: str = "full"
    stride: int | None = None
    summary_size: int | None = None
    max_position_embeddings: int = 1024

    def get_text_config(self, decoder=None, encoder=None):
        """
        This configuration, or for an end of another depth a copy whose `num_hidden_layers` is that end's.

        transformers would copy it in any case, three times for each reply.
        """
        if self.encoder_layers == self.decoder_layers:
            return self
        return super().get_text_config(decoder=decoder, encoder=encoder)

    def set_open_widths(self):
        """`d_ff` as the paper has it; only now, because d_model may have come under its other name, hidden_size."""
        if self.d_ff is None and isinstance(self.d_model, int):
            self.d_ff = 4 * self.d_model
        if self.self_attention != "full" and self.stride is None:
            self.stride = root_of(self.max_position_embeddings)
        if self.self_attention == "fixed" and self.summary_size is None:
            self.summary_size = min(8, max(1, self.stride // 4))

    def validate_architecture(self):
        """Check every rule that a Chatformer's numbers must keep."""
        self._check_widths(
            "vocab_size",
            "d_model",
            "d_ff",
            "num_heads",
            "encoder_layers",
            "decoder_layers",
            "max_position_embeddings",
        )
        self._check_probabilities("dropout", "attention_dropout", "activation_dropout")
        if not 0 < self.layer_norm_eps < math.inf:
            raise ValueError(f"layer_norm_eps must be more than 0, but it is {self.layer_norm_eps!r}.")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, but it is {self.activation!r}.")
        if self.self_attention not in SELF_ATTENTIONS:
            raise ValueError(
                f"self_attention must be one of {', '.join(SELF_ATTENTIONS)}, but it is {self.self_attention!r}."
            )
        if self.self_attention != "full":
            self._check_widths("stride")
        if self.self_attention == "fixed":
            self._check_widths("summary_size")
            if self.summary_size > self.stride:
                raise ValueError(f"summary_size ({self.summary_size}) must be at most stride ({self.stride}).")
        if self.d_model % self.num_heads:
            raise ValueError(f"d_model ({self.d_model}) must be a multiple of num_heads ({self.num_heads}).")
        if self.d_model % 2:
            raise ValueError(
                f"d_model ({self.d_model}) must be even: each frequency of the positions takes a sine and a cosine."
            )
        if not self.is_encoder_decoder:
            raise ValueError("A Chatformer is an encoder-decoder: is_encoder_decoder must stay True.")
        self._check_control_tokens()


__all__ = ["ChatformerConfig"]
