"""The configuration of an ensemble: several Transformers of one shape that predict each token together."""

from .configuration_chatformer import ChatformerConfig

AUTO_MAP = {
    "AutoConfig": "configuration_ensemble.EnsembleConfig",
    "AutoModel": "modeling_ensemble.EnsembleModel",
    "AutoModelForSeq2SeqLM": "modeling_ensemble.EnsembleForConditionalGeneration",
}


class EnsembleConfig(ChatformerConfig):
    r"""
    Describe an ensemble of Transformers; all other fields are those of each member.

    num_members (`int`): Transformers that predict each token together.

    Raises a `ValueError` that states the rule and what was found when values contradict each other.
    """

    model_type = "ensemble"
    own_code = AUTO_MAP

    num_members: int = 2

    def validate_architecture(self):
        """Check every rule that the members' numbers must keep, and their number."""
        super().validate_architecture()
        self._check_widths("num_members")

    def get_text_config(self, decoder=None, encoder=None):
        """As transformers has it; the decoder, for which caches are made, is one member with the layers of all."""
        # A copy in any case, unlike a Transformer's.
        config = super(ChatformerConfig, self).get_text_config(decoder=decoder, encoder=encoder)
        if decoder and not encoder:
            config.num_hidden_layers *= self.num_members
            # What transformers asks for is asked again.
            config.num_members = 1
        return config


__all__ = ["EnsembleConfig"]
