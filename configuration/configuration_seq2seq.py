"""What the configurations of all architectures share: the code that travels, control tokens, and checks of fields."""

import difflib

from transformers import PretrainedConfig

CUSTOM_PIPELINES = {
    "seq2seq-chat": {
        "impl": "pipeline_chatformer.Seq2SeqChatPipeline",
        "pt": ["AutoModelForSeq2SeqLM"],
        "type": "text",
    }
}


class Seq2SeqConfig(PretrainedConfig):
    """Describe an encoder-decoder; each architecture adds its own numbers, and checks them."""

    keys_to_ignore_at_inference = ["past_key_values"]
    own_code = dict[str, str]()
    """What a saved folder says of itself, so that it loads with `trust_remote_code=True` without chatformer."""

    vocab_size: int = 37000
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 1
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = True
    use_cache: bool = True
    pictures_stand_alone: bool = False
    """No reply that was learnt has both a picture and words, so that none is to have."""

    def __post_init__(self, **kwargs):
        self._reject_misspelt_fields(kwargs)
        # What a loaded configuration says comes last: it may name the repository that the code is in.
        kwargs["auto_map"] = self.own_code | (kwargs.get("auto_map") or {})
        kwargs["custom_pipelines"] = CUSTOM_PIPELINES | (kwargs.get("custom_pipelines") or {})
        super().__post_init__(**kwargs)
        self.set_open_widths()
        self.validate_architecture()

    def set_open_widths(self):
        """Set the widths that follow from others unless given, once all fields have their values."""

    @classmethod
    def from_dict(cls, config_dict, **overrides):
        """Make a configuration of `config_dict`; `overrides` are the keywords that `from_pretrained` was given."""
        found = super().from_dict(config_dict, **overrides)
        # transformers sets them without any check, and leaves those that are not fields to other readers.
        config, unknown = found if isinstance(found, tuple) else (found, overrides)
        config._reject_misspelt_fields(unknown)
        config.set_open_widths()
        config.validate_architecture()
        return found

    def _reject_misspelt_fields(self, unknown):
        # transformers keeps a keyword that it does not know, silently and without effect.
        for name in unknown:
            nearest = difflib.get_close_matches(name, self.__dataclass_fields__, n=1, cutoff=0.85)
            if nearest and not hasattr(self, name):
                raise ValueError(f"{type(self).__name__} has no field {name!r}. Did you mean {nearest[0]!r}?")

    def validate_architecture(self):
        """Check every rule that the architecture's numbers must keep."""
        raise NotImplementedError

    def _check_widths(self, *names):
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, but it is {value!r}.")

    def _check_probabilities(self, *names):
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1:
                raise ValueError(f"{name} is a probability: 0 <= {name} < 1, but it is {value!r}.")

    def _check_control_tokens(self):
        for name in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"):
            value = getattr(self, name)
            for token_id in value if isinstance(value, list) else [value]:
                if token_id is not None and not 0 <= token_id < self.vocab_size:
                    raise ValueError(
                        f"{name} ({token_id}) must be a row of the vocabulary, 0 to vocab_size - 1 "
                        f"({self.vocab_size - 1})."
                    )


__all__ = ["CUSTOM_PIPELINES", "Seq2SeqConfig"]
