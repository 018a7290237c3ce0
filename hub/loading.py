"""Load what is to be shared, or say why it cannot be."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import HFValidationError, validate_repo_id
from transformers import AutoConfig, AutoTokenizer

import chatformer  # noqa: F401  (makes its models known to the auto classes)

from .errors import HubError, first_line

MIN_POSITIONS = 1024


def num_positions(config: Any) -> int:
    """Return the length of a table of positions that, unlike ours, cannot grow."""
    return max(config.max_position_embeddings, MIN_POSITIONS)


def load_config(name: str, revision: str | None) -> Any:
    """Return the configuration of a folder or of a model on the Hub."""
    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise HubError(f"The folder {name} holds no model: it has no config.json.")
    if not folder.is_dir():
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            raise HubError(f"There is no folder {name}, and no model on the Hub can be called so.") from error
    try:
        return AutoConfig.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        raise HubError(f"{name} could not be loaded, as a folder or from the Hub: {first_line(error)}") from error


def load_weights(
    model_class: Any, name: str, revision: str | None, *, dtype: torch.dtype | str, may_lack: Collection[str] = ()
) -> Any:
    """Return a model whose every weight stood in the checkpoint, which holds no others."""
    try:
        model, found = model_class.from_pretrained(name, revision=revision, dtype=dtype, output_loading_info=True)
    # A broken file of weights raises all kinds of errors.
    except Exception as error:
        raise HubError(f"The weights of {name} could not be loaded: {first_line(error)}") from error
    missing = sorted(set(found["missing_keys"]) - set(may_lack))
    if missing:
        raise HubError(f"The weights of {name} are incomplete: {in_short(missing)} missing.")
    if found["unexpected_keys"]:
        raise HubError(
            f"The weights of {name} have parts that {model_class.__name__} has no place for: "
            f"{in_short(sorted(found['unexpected_keys']))}."
        )
    return model.eval()


def in_short(names: list[str]) -> str:
    """Return the first few names and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def load_chatformer(name: str, revision: str | None) -> Any:
    """Return a Chatformer model in float32; raise a `HubError` for another architecture."""
    from chatformer import ChatformerForConditionalGeneration

    config = load_config(name, revision)
    if config.model_type != "chatformer":
        hint = " `chatformer import` turns it into one." if config.model_type == "marian" else ""
        raise HubError(f"{name} must be a Chatformer model, but its config.json says {config.model_type!r}.{hint}")
    model = load_weights(ChatformerForConditionalGeneration, name, revision, dtype=torch.float32)
    parts = model.model
    if not all_equal(parts.encoder.embedding.weight, parts.decoder.embedding.weight, model.lm_head.weight):
        raise HubError(
            f"{name} has tie_word_embeddings=False and several matrices of embeddings; what can be exported shares one "
            "between source, target and output."
        )
    return model


def all_equal(first: torch.Tensor, *others: torch.Tensor) -> bool:
    """Return whether matrices are equal, be they one or copies."""
    return all(torch.equal(first, other) for other in others)


def load_tokenizer(name: str, revision: str | None, *, vocab_size: int) -> Any:
    """Return the tokenizer of a folder or of a model on the Hub, no larger than the model's vocabulary."""
    folder = Path(name)
    if folder.is_dir() and not any((folder / file).is_file() for file in ("tokenizer.json", "source.spm")):
        raise HubError(f"The folder {name} has no tokenizer: neither tokenizer.json nor source.spm is there.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    except ImportError as error:
        raise HubError(
            f"The tokenizer of {name} needs a package that is not installed ({first_line(error)}): "
            "pip install 'chatformer[marian]'"
        ) from error
    # A broken tokenizer file raises all kinds of errors.
    except Exception as error:
        raise HubError(f"{name} has no tokenizer that could be loaded: {first_line(error)}") from error
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest < 0:
        raise HubError(f"{name} has no tokenizer: its vocabulary is empty.")
    if highest >= vocab_size:
        raise HubError(
            f"The tokenizer of {name} does not match its model: it has a token {highest}, and the vocabulary's rows "
            f"are 0 to vocab_size - 1 ({vocab_size - 1})."
        )
    return tokenizer
