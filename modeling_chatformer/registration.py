"""
Chatformer's entries in transformers' auto classes, and the card that `push_to_hub` of the installed model adds.

Each hook runs when the module that it names has been imported, so that importing Chatformer loads neither torch nor
transformers, and the order of imports does not matter.
"""

import functools
import importlib
import pkgutil
import sys
from types import ModuleType
from typing import Any

import wrapt

PARTS = ("pretrained", "attention", "feed_forward", "encoder", "decoder", "fast_decoding", "generation")
"""The model's files that import transformers."""

# The model needs these, and each of them may lead to the import of transformers' auto classes.
NEEDED = frozenset({"transformers.modeling_layers", *(f"chatformer.{part}" for part in PARTS)})
_complete: set[str] = set()


def register_when_imported() -> None:
    """Hook into the imports of transformers and of our own models: the import of one brings the other."""
    hooks = {
        "transformers.models.auto.configuration_auto": load_configuration,
        "chatformer.configuration.configuration_chatformer": register_configuration,
        "transformers.models.auto.modeling_auto": load_layers,
        "chatformer.modeling_chatformer": register_models,
        **dict.fromkeys(sorted(NEEDED), load_models),
    }
    for module, hook in hooks.items():
        wrapt.when_imported(module)(hook)


def load_configuration(_configuration_auto: ModuleType) -> None:
    importlib.import_module("chatformer.configuration.configuration_chatformer")


def register_configuration(configuration: Any) -> None:
    from transformers import AutoConfig

    config_class = configuration.ChatformerConfig
    config_class.register_for_auto_class()
    AutoConfig.register(config_class.model_type, config_class)


def load_layers(_modeling_auto: ModuleType) -> None:
    importlib.import_module("transformers.modeling_layers")


def load_models(imported: ModuleType) -> None:
    """Import the models, unless something that they need is half imported: then its own hook calls this again."""
    _complete.add(imported.__name__)
    if all(name in _complete or name not in sys.modules for name in NEEDED):
        importlib.import_module("chatformer.modeling_chatformer")


def register_models(modeling: Any) -> None:
    from transformers.models.auto.modeling_auto import AutoModel, AutoModelForSeq2SeqLM

    from chatformer.configuration import ChatformerConfig

    modeling.ChatformerModel.register_for_auto_class("AutoModel")
    modeling.ChatformerForConditionalGeneration.register_for_auto_class("AutoModelForSeq2SeqLM")
    AutoModel.register(ChatformerConfig, modeling.ChatformerModel)
    AutoModelForSeq2SeqLM.register(ChatformerConfig, modeling.ChatformerForConditionalGeneration)
    # Not of an encoder or a decoder alone, whose card would be that of a model that talks.
    for model_class in (modeling.ChatformerModel, modeling.ChatformerForConditionalGeneration):
        model_class.push_to_hub = with_card(model_class.push_to_hub)


def with_card(stock_push_to_hub: Any) -> Any:
    """The stock method, with Chatformer's card and the record of the training in the same commit."""

    @functools.wraps(stock_push_to_hub)
    def push_to_hub(model: Any, repo_id: str, **options: Any) -> Any:
        # By name, when it is called: a model that is not pushed needs nothing of the hub.
        return pkgutil.resolve_name("chatformer.hub.stock_push:push_to_hub")(model, repo_id, **options)

    return push_to_hub
