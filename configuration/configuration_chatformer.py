"""The configuration of a Chatformer model, in the symbols of "Attention Is All You Need"."""

import difflib
import math

from transformers import PretrainedConfig

ACTIVATIONS = ("relu", "silu", "swish", "gelu")

# What a saved folder says of itself, so that it loads with `trust_remote_code=True` where chatformer is not installed.
AUTO_MAP = {
    "AutoConfig": "configuration_chatformer.ChatformerConfig",
    "AutoModel": "modeling_chatformer.ChatformerModel",
    "AutoModelForSeq2SeqLM": "modeling_chatformer.ChatformerForConditionalGeneration",
}
CUSTOM_PIPELINES = {
    "seq2seq-chat": {
        "impl": "pipeline_chatformer.Seq2SeqChatPipeline",
        "pt": ["AutoModelForSeq2SeqLM"],
        "type": "text",
    }
}


class ChatformerConfig(PretrainedConfig):
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
    max_position_embeddings (`int`): Positions tabulated beforehand. Not a limit: longer inputs extend the table, but
        for what `torch.export` made, which refuses them.
    pad_token_id, bos_token_id, eos_token_id, decoder_start_token_id (`int`): Rows of the control tokens.

    Raises a `ValueError` that states the rule and what was found when values contradict each other.
    """

    model_type = "chatformer"
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "encoder_layers",
        "layer_norm_epsilon": "layer_norm_eps",
    }

    vocab_size: int = 37000
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
    max_position_embeddings: int = 1024
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 1
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = True
    use_cache: bool = True

    def __post_init__(self, **kwargs):
        self._reject_misspelt_fields(kwargs)
        # What a loaded configuration says comes last: it may name the repository that the code is in.
        kwargs["auto_map"] = AUTO_MAP | (kwargs.get("auto_map") or {})
        kwargs["custom_pipelines"] = CUSTOM_PIPELINES | (kwargs.get("custom_pipelines") or {})
        super().__post_init__(**kwargs)
        # Only now: d_model may have come under its other name, hidden_size.
        if self.d_ff is None and isinstance(self.d_model, int):
            self.d_ff = 4 * self.d_model
        self.validate_architecture()

    @classmethod
    def from_dict(cls, config_dict, **overrides):
        """Make a configuration of `config_dict`; `overrides` are the keywords that `from_pretrained` was given."""
        found = super().from_dict(config_dict, **overrides)
        # transformers sets them past all checks, and leaves what is not a field for whatever else may want it.
        config, unknown = found if isinstance(found, tuple) else (found, overrides)
        config._reject_misspelt_fields(unknown)
        config.validate_architecture()
        return found

    def _reject_misspelt_fields(self, unknown):
        # transformers keeps a keyword that it does not know, silently and without effect.
        for name in unknown:
            nearest = difflib.get_close_matches(name, self.__dataclass_fields__, n=1, cutoff=0.85)
            if nearest and not hasattr(self, name):
                raise ValueError(f"ChatformerConfig has no field {name!r}. Did you mean {nearest[0]!r}?")

    def validate_architecture(self):
        """Check every rule that a Chatformer's numbers must keep."""
        for name in (
            "vocab_size",
            "d_model",
            "d_ff",
            "num_heads",
            "encoder_layers",
            "decoder_layers",
            "max_position_embeddings",
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, but it is {value!r}.")
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1:
                raise ValueError(f"{name} is a probability: 0 <= {name} < 1, but it is {value!r}.")
        if not 0 < self.layer_norm_eps < math.inf:
            raise ValueError(f"layer_norm_eps must be more than 0, but it is {self.layer_norm_eps!r}.")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, but it is {self.activation!r}.")
        if self.d_model % self.num_heads:
            raise ValueError(f"d_model ({self.d_model}) must be a multiple of num_heads ({self.num_heads}).")
        if self.d_model % 2:
            raise ValueError(
                f"d_model ({self.d_model}) must be even: each frequency of the positions takes a sine and a cosine."
            )
        if not self.is_encoder_decoder:
            raise ValueError("A Chatformer is an encoder-decoder: is_encoder_decoder must stay True.")
        for name in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"):
            value = getattr(self, name)
            for token_id in value if isinstance(value, list) else [value]:
                if token_id is not None and not 0 <= token_id < self.vocab_size:
                    raise ValueError(
                        f"{name} ({token_id}) must be a row of the vocabulary, 0 to vocab_size - 1 "
                        f"({self.vocab_size - 1})."
                    )


__all__ = ["ChatformerConfig"]
