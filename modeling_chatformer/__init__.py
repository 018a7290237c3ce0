"""
Chatformer: the Transformer of "Attention Is All You Need", trained on your conversations, in the Hugging Face way.

Importing this package is quick: the classes below are loaded when they are first asked for. From then on, or from the
moment that transformers' auto classes are imported, AutoConfig, AutoModel and AutoModelForSeq2SeqLM know Chatformer.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from chatformer.configuration import SIZES, ChatformerConfig, sized_config

    from .modeling_chatformer import ChatformerForConditionalGeneration, ChatformerModel

__version__ = "0.1.0"

__all__ = [
    "SIZES",
    "ChatformerConfig",
    "ChatformerForConditionalGeneration",
    "ChatformerModel",
    "sized_config",
]

_HOMES = {
    "SIZES": "chatformer.configuration",
    "ChatformerConfig": "chatformer.configuration",
    "sized_config": "chatformer.configuration",
    "ChatformerForConditionalGeneration": "chatformer.modeling_chatformer",
    "ChatformerModel": "chatformer.modeling_chatformer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


# Whichever of the two is imported first, transformers' auto classes or ours, brings the other.
@wrapt.when_imported("transformers.models.auto.configuration_auto")
def _load_configuration(_configuration_auto: Any) -> None:
    importlib.import_module("chatformer.configuration.configuration_chatformer")


@wrapt.when_imported("chatformer.configuration.configuration_chatformer")
def _register_configuration(configuration: Any) -> None:
    from transformers import AutoConfig

    config_class = configuration.ChatformerConfig
    config_class.register_for_auto_class()
    AutoConfig.register(config_class.model_type, config_class)


@wrapt.when_imported("transformers.models.auto.modeling_auto")
def _load_layers(_modeling_auto: Any) -> None:
    importlib.import_module("transformers.modeling_layers")


_PARTS = {"encoder": "Encoder", "decoder": "Decoder", "fast_decoding": "NextToken"}


# Not from modeling_auto at once: the layers import it, and our model, which needs them, would find half of them.
@wrapt.when_imported("transformers.modeling_layers")
def _load_models(_imported: Any) -> None:
    parts = {name: sys.modules.get(f"chatformer.{part}") for part, name in _PARTS.items()}
    # A part that is itself being imported, and which the model needs, comes here again at its end.
    if all(part is None or hasattr(part, name) for name, part in parts.items()):
        importlib.import_module("chatformer.modeling_chatformer")


for _part in _PARTS:
    wrapt.when_imported(f"chatformer.{_part}")(_load_models)


@wrapt.when_imported("chatformer.modeling_chatformer")
def _register_models(modeling_chatformer: Any) -> None:
    from transformers.models.auto.modeling_auto import AutoModel, AutoModelForSeq2SeqLM

    from chatformer.configuration import ChatformerConfig

    modeling_chatformer.ChatformerModel.register_for_auto_class("AutoModel")
    modeling_chatformer.ChatformerForConditionalGeneration.register_for_auto_class("AutoModelForSeq2SeqLM")
    AutoModel.register(ChatformerConfig, modeling_chatformer.ChatformerModel)
    AutoModelForSeq2SeqLM.register(ChatformerConfig, modeling_chatformer.ChatformerForConditionalGeneration)
