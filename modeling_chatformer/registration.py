"""
Chatformer's entries in transformers' auto classes, and the card that `push_to_hub` of the installed model adds.

Each hook runs when the module that it names has been imported, so that importing Chatformer loads neither torch nor
transformers, and the order of imports does not matter.
"""

import functools
import importlib
import pkgutil
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import wrapt

PARTS = ("pretrained", "attention", "feed_forward", "encoder", "decoder", "fast_decoding", "seq2seq", "generation")
"""The models' files that import transformers."""

# The models need these, and each of them may lead to the import of transformers' auto classes.
NEEDED = frozenset({"transformers.modeling_layers", *(f"chatformer.{part}" for part in PARTS)})
_complete: set[str] = set()

CONFIGURATIONS = {
    "Chatformer": "chatformer.configuration.configuration_chatformer",
    "Bahdanau": "chatformer.configuration.configuration_bahdanau",
}
MODELS = {"Chatformer": "chatformer.modeling_chatformer", "Bahdanau": "chatformer.modeling_bahdanau"}
"""The file of each architecture, whose classes begin with its name."""


def register_when_imported() -> None:
    """Hook into the imports of transformers and of our own models: the import of one brings the other."""
    hooks: dict[str, Callable[[ModuleType], None]] = {
        "transformers.models.auto.configuration_auto": load_configurations,
        "transformers.models.auto.modeling_auto": load_layers,
        **dict.fromkeys(sorted(NEEDED), load_models),
    }
    for name, module in CONFIGURATIONS.items():
        hooks[module] = functools.partial(register_configuration, name)
    for name, module in MODELS.items():
        hooks[module] = functools.partial(register_models, name)
    for module, hook in hooks.items():
        wrapt.when_imported(module)(hook)


def load_configurations(_configuration_auto: ModuleType) -> None:
    for module in CONFIGURATIONS.values():
        importlib.import_module(module)


def register_configuration(name: str, configuration: Any) -> None:
    from transformers import AutoConfig

    config_class = getattr(configuration, f"{name}Config")
    config_class.register_for_auto_class()
    AutoConfig.register(config_class.model_type, config_class)


def load_layers(_modeling_auto: ModuleType) -> None:
    importlib.import_module("transformers.modeling_layers")


def load_models(imported: ModuleType) -> None:
    """Import the models, unless something that they need is half imported: then its own hook calls this again."""
    _complete.add(imported.__name__)
    if all(name in _complete or name not in sys.modules for name in NEEDED):
        for module in MODELS.values():
            importlib.import_module(module)


def register_models(name: str, modeling: Any) -> None:
    from transformers.models.auto.modeling_auto import AutoModel, AutoModelForSeq2SeqLM

    model, whole = (getattr(modeling, f"{name}{kind}") for kind in ("Model", "ForConditionalGeneration"))
    model.register_for_auto_class("AutoModel")
    whole.register_for_auto_class("AutoModelForSeq2SeqLM")
    AutoModel.register(model.config_class, model)
    AutoModelForSeq2SeqLM.register(whole.config_class, whole)
    # Not of an encoder or a decoder alone, whose card would be that of a model that talks.
    for model_class in (model, whole):
        model_class.push_to_hub = with_card(model_class.push_to_hub)


def with_card(stock_push_to_hub: Any) -> Any:
    """The stock method, with Chatformer's card and the record of the training in the same commit."""

    @functools.wraps(stock_push_to_hub)
    def push_to_hub(model: Any, repo_id: str, **options: Any) -> Any:
        # By name, when it is called: a model that is not pushed needs nothing of the hub.
        return pkgutil.resolve_name("chatformer.hub.stock_push:push_to_hub")(model, repo_id, **options)

    return push_to_hub
