"""Load what is to be shared, or say why it cannot be."""

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from huggingface_hub.utils import HFValidationError, validate_repo_id
from transformers import AutoConfig

from chatformer.storage.model_folder import Checkpoint, CheckpointError, first_few, refusal_by

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
        return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    # A broken configuration raises all kinds of errors.
    except Exception as error:
        said = refusal_by(error, f"{constants.ENDPOINT}/{name}") or first_line(error)
        raise HubError(f"{name} could not be loaded, as a folder or from the Hub: {said}") from error


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
        raise HubError(f"The weights of {name} are incomplete: {first_few(missing)} missing.")
    if found["unexpected_keys"]:
        raise HubError(
            f"The weights of {name} have parts that {model_class.__name__} has no place for: "
            f"{first_few(sorted(found['unexpected_keys']))}."
        )
    return model.eval()


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Turn a `CheckpointError` into a `HubError`."""
    try:
        yield
    except CheckpointError as error:
        raise HubError(str(error)) from error


def load_chatformer(name: str, revision: str | None) -> Any:
    """Return a Chatformer model in float32, whose embeddings are one; raise a `HubError` for any other."""
    with loading():
        model = Checkpoint.find(name, revision).model(torch.float32)
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
    with loading():
        return Checkpoint.find(name, revision).tokenizer(vocab_size=vocab_size)
