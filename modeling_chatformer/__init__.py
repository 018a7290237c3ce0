"""
Chatformer: the Transformer of "Attention Is All You Need", trained on your conversations, in the Hugging Face way.

Importing this package is quick: the classes below are loaded when they are first asked for. From then on, or from the
moment that transformers' auto classes are imported, AutoConfig, AutoModel and AutoModelForSeq2SeqLM know Chatformer.
"""

import importlib
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


@wrapt.when_imported("transformers.models.auto.configuration_auto")
def _register_config(configuration_auto: Any) -> None:
    from chatformer.configuration import ChatformerConfig

    ChatformerConfig.register_for_auto_class()
    configuration_auto.AutoConfig.register(ChatformerConfig.model_type, ChatformerConfig)


@wrapt.when_imported("transformers.models.auto.modeling_auto")
def _register_models(modeling_auto: Any) -> None:
    from chatformer.configuration import ChatformerConfig

    from .modeling_chatformer import ChatformerForConditionalGeneration, ChatformerModel

    modeling_auto.AutoModel.register(ChatformerConfig, ChatformerModel)
    modeling_auto.AutoModelForSeq2SeqLM.register(ChatformerConfig, ChatformerForConditionalGeneration)
