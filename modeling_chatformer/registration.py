"""
Chatformer's entries in transformers' auto classes, and the card that the installed model adds when it is pushed.

Each hook runs when the module that it names has been imported, so that importing Chatformer loads neither torch nor
transformers, and the order of imports does not matter.
"""

import functools
import importlib
import os
import pkgutil
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from .import_hooks import when_imported

PARTS = (
    "pretrained",
    "attention",
    "feed_forward",
    "sparse_attention",
    "encoder",
    "decoder",
    "fast_decoding",
    "seq2seq",
    "generation",
)
"""The models' files that import transformers."""

# The models need these, and each of them may lead to the import of transformers' auto classes.
NEEDED = frozenset({"transformers.modeling_layers", *(f"chatformer.{part}" for part in PARTS)})
_complete: set[str] = set()

CONFIGURATIONS = {
    "Chatformer": "chatformer.configuration.configuration_chatformer",
    "Bahdanau": "chatformer.configuration.configuration_bahdanau",
    "Ensemble": "chatformer.configuration.configuration_ensemble",
}
OPTIONS_OF_A_PUSH = ("repo_id", "commit_message", "commit_description", "private", "revision", "create_pr", "tags")
"""Those of `save_pretrained` that say where and how it pushes."""
MODELS = {
    "Chatformer": "chatformer.modeling_chatformer",
    "Bahdanau": "chatformer.modeling_bahdanau",
    "Ensemble": "chatformer.modeling_ensemble",
}
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
        when_imported(module, hook)


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
        model_class.save_pretrained = pushing_with_card(model_class.save_pretrained)


def push(model: Any, repo_id: str, **options: Any) -> Any:
    """Push a model with Chatformer's card and the record of its training."""
    # By name, when it is called: a model that is not pushed needs nothing of the hub.
    return pkgutil.resolve_name("chatformer.hub.stock_push:push_to_hub")(model, repo_id, **options)


def with_card(stock_push_to_hub: Any) -> Any:
    """The stock method, with Chatformer's card and the record of the training in the same commit."""

    @functools.wraps(stock_push_to_hub)
    def push_to_hub(model: Any, repo_id: str, **options: Any) -> Any:
        return push(model, repo_id, **options)

    return push_to_hub


def pushing_with_card(stock_save_pretrained: Any) -> Any:
    """The stock method; what it pushes with `push_to_hub=True` is the same, with the card and the record."""

    @functools.wraps(stock_save_pretrained)
    def save_pretrained(
        model: Any,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: dict[str, Any] | None = None,
        push_to_hub: bool = False,
        *others: Any,
        **options: Any,
    ) -> None:
        # Of a distributed checkpoint every process has a part, which the stock method collects.
        if not (push_to_hub and is_main_process) or options.get("distributed_checkpoint"):
            stock_save_pretrained(model, save_directory, is_main_process, state_dict, push_to_hub, *others, **options)
            return
        for_the_hub = {name: options.pop(name) for name in OPTIONS_OF_A_PUSH if name in options}
        repo_id = for_the_hub.pop("repo_id", os.path.basename(os.path.abspath(save_directory)))

        def save(folder: str | os.PathLike[str]) -> None:
            stock_save_pretrained(model, folder, True, state_dict, False, *others, **options)

        save(save_directory)
        push(model, repo_id, save=save, token=options.get("token"), **for_the_hub)

    return save_pretrained
