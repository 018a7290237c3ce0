"""What a model is: the configuration and the named sizes."""

from .configuration_chatformer import ChatformerConfig
from .sizes import SIZES, sized_config

__all__ = ["SIZES", "ChatformerConfig", "sized_config"]
