"""
Load a stranger's model safely: data only, never code; every claim is checked against the files.

The claims are checked before memory is allocated, and an error names the file that does not fit.
"""

import hashlib
import os
import re
import reprlib
import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoTokenizer, GenerationConfig

from chatformer import (
    BahdanauForConditionalGeneration,
    ChatformerForConditionalGeneration,
    EnsembleForConditionalGeneration,
)
from chatformer.configuration import BahdanauConfig, ChatformerConfig, EnsembleConfig
from chatformer.conversation import encode_conversation

from .explaining import StorageError, explained, first_few, no_model
from .names import (
    CONFIG_FILE,
    GENERATION_FILE,
    RECORD_FILE,
    SENTENCEPIECE_FILE,
    SETTINGS_FILE,
    TOKENIZER_FILE,
    TOKENIZER_FILES,
    WEIGHTS_FILE,
    WEIGHTS_FILES,
    WEIGHTS_INDEX_FILE,
)
from .reading import read_structure

MODELS: dict[str, tuple[type[Any], type[Any]]] = {
    "chatformer": (ChatformerConfig, ChatformerForConditionalGeneration),
    "bahdanau": (BahdanauConfig, BahdanauForConditionalGeneration),
    "ensemble": (EnsembleConfig, EnsembleForConditionalGeneration),
}
"""The classes of each `model_type`."""

DTYPES = {"F64", "F32", "F16", "BF16"}
"""The names of real numbers in a safetensors file."""

# Far above every real model, and low enough that nothing takes long or much memory.
MAX_TEXT_BYTES = 2**28
MAX_LAYERS = 1000
MAX_WIDTH = 2**16
MAX_POSITION_NUMBERS = 2**27
MAX_GENERATION = {
    "max_length": 2**16,
    "max_new_tokens": 2**16,
    "min_length": 2**16,
    "min_new_tokens": 2**16,
    "num_beams": 2**8,
    "num_return_sequences": 2**8,
}

Shape = tuple[int, ...]


def check_size(config: Any) -> None:
    """Raise a `ValueError` if a model of this configuration would take long to make, or much memory."""
    if config.model_type == "bahdanau":
        for name in ("d_model", "d_embedding", "d_attention"):
            if getattr(config, name) > MAX_WIDTH:
                raise ValueError(f"{name} must be at most {MAX_WIDTH}, but it is {getattr(config, name)}.")
        return
    # Each member of an ensemble has its own layers and its own table.
    num_members = getattr(config, "num_members", 1)
    of_all = "" if num_members == 1 else f" over all {num_members} members"
    for name in ("encoder_layers", "decoder_layers"):
        if getattr(config, name) * num_members > MAX_LAYERS:
            raise ValueError(f"{name} must be at most {MAX_LAYERS}{of_all}, but it is {getattr(config, name)}.")
    if config.max_position_embeddings * config.d_model * num_members > MAX_POSITION_NUMBERS:
        raise ValueError(
            f"a table of max_position_embeddings ({config.max_position_embeddings}) by d_model "
            f"({config.d_model}) must have at most {MAX_POSITION_NUMBERS} numbers{of_all}. Lower the former: longer "
            "inputs extend the table."
        )


@dataclass(frozen=True)
class ModelFolder:
    """The folder of a saved model."""

    name: str
    """What the user called it: a folder, or an id on the Hub."""
    folder: Path
    commit: str | None = None
    """Of a model from the Hub, its commit."""

    @classmethod
    def find(cls, name: str, revision: str | None = None, *, with_records: bool = False) -> "ModelFolder":
        """Find a folder, or download a model from the Hub, without its code, and `with_records` of its training."""
        folder, commit = Path(name), None
        if not name:
            raise StorageError("The name of the model is empty. Give its folder, or its id on the Hub.")
        if folder.is_file():
            raise StorageError(f"{name} is a file. Give the folder of a model: the --output-dir of a training.")
        if not folder.is_dir():
            files = [CONFIG_FILE, GENERATION_FILE, *WEIGHTS_FILES, *TOKENIZER_FILES]
            if with_records:
                files += [SETTINGS_FILE, RECORD_FILE]
            try:
                folder = Path(snapshot_download(name, revision=revision, allow_patterns=files))
            # The name, the network or the Hub may be the reason.
            except Exception as error:
                raise StorageError(no_model(error, name)) from error
            commit = folder.name
        model_folder = cls(name, folder, commit)
        if not model_folder.has(CONFIG_FILE):
            raise StorageError(
                f"The folder {name} holds no model: it has no {CONFIG_FILE}. Give the --output-dir of a training "
                "that has published one."
            )
        return model_folder

    def show_commit(self) -> None:
        """Print the commit of a model from the Hub, on stderr: a program may read the standard output."""
        if self.commit is not None:
            print(f"{self.name}, commit {self.commit[:7]}", file=sys.stderr)

    def has(self, file: str) -> bool:
        """True if there is this file; a `StorageError` if it is too large or something other than a file."""
        path = self.folder / file
        if path.exists() and not path.is_file():
            raise StorageError(f"{file} of {self.name} must be a file, but it is a folder or a device.")
        if path.is_file() and not os.access(path, os.R_OK):
            raise StorageError(f"{file} of {self.name} cannot be read: this user has no permission to read it.")
        if path.is_file() and not file.endswith(".safetensors") and path.stat().st_size > MAX_TEXT_BYTES:
            raise StorageError(
                f"{file} of {self.name} must have at most {MAX_TEXT_BYTES:,} bytes, but it has {path.stat().st_size:,}."
            )
        return path.is_file()

    def read(self, file: str) -> dict[str, Any]:
        """The names and values of a JSON file."""
        return read_structure(self.folder / file, f"{file} of {self.name}")

    def config(self) -> Any:
        """The configuration, valid and of a size that can be loaded."""
        content = self.read(CONFIG_FILE)
        model_type = content.get("model_type")
        if not isinstance(model_type, str) or model_type not in MODELS:
            hint = " `chatformer import` turns it into one." if model_type == "marian" else ""
            raise StorageError(
                f"{self.name} must be a Chatformer model, but its {CONFIG_FILE} says {reprlib.repr(model_type)}.{hint}"
            )
        with explained(f"{CONFIG_FILE} of {self.name} is not a Chatformer configuration"):
            config = MODELS[model_type][0].from_dict(content)
            check_size(config)
        # A file must not choose the attention: the name could be that of foreign code on the Hub.
        config._attn_implementation = None
        return config

    def weight_files(self) -> list[str]:
        """The names of the files of weights."""
        if self.has(WEIGHTS_FILE):
            return [WEIGHTS_FILE]
        if not self.has(WEIGHTS_INDEX_FILE):
            raise StorageError(
                f"The weights of {self.name} are missing: there is no {WEIGHTS_FILE}. Pickles, such as "
                "pytorch_model.bin, are not loaded, as they can run code."
            )
        parts = self.read(WEIGHTS_INDEX_FILE).get("weight_map")
        if not isinstance(parts, dict) or not all(isinstance(file, str) for file in parts.values()):
            raise StorageError(f"{WEIGHTS_INDEX_FILE} of {self.name} must have a weight_map of names and files.")
        files = sorted(set(parts.values()))
        for file in files:
            if not re.fullmatch(r"[\w.-]+", file) or not any(fnmatchcase(file, pattern) for pattern in WEIGHTS_FILES):
                raise StorageError(
                    f"{WEIGHTS_INDEX_FILE} of {self.name} must name its parts, but not {reprlib.repr(file)}."
                )
            if not self.has(file):
                raise StorageError(f"The weights of {self.name} are incomplete: {file} is missing.")
        return files

    def weights_sha256(self) -> dict[str, str]:
        """The SHA-256 of each file of weights, by its name."""
        hashes = {}
        for file in self.weight_files():
            with (self.folder / file).open("rb") as stream:
                hashes[file] = hashlib.file_digest(stream, "sha256").hexdigest()
        return hashes

    def stored_shapes(self) -> dict[str, Shape]:
        """The shape of each weight, as the files' headers state it."""
        shapes: dict[str, Shape] = {}
        for file in self.weight_files():
            with (
                explained(f"The weights of {self.name} could not be read: {file} is broken"),
                safe_open(self.folder / file, framework="pt") as weights,
            ):
                for name in weights.keys():  # noqa: SIM118  (it is not a mapping)
                    weight = weights.get_slice(name)
                    if weight.get_dtype() not in DTYPES:
                        raise ValueError(f"{reprlib.repr(name)} must be of real numbers, but is {weight.get_dtype()}.")
                    shapes[name] = tuple(weight.get_shape())
        return shapes

    def model(self, dtype: torch.dtype | None = None) -> Any:
        """The model on the CPU, in `dtype`, or in the precision that it is stored in."""
        config = self.config()
        with explained(f"{CONFIG_FILE} of {self.name} is not a Chatformer configuration"), torch.device("meta"):
            model: Any = MODELS[config.model_type][1](config)
        self._compare(model, self.stored_shapes())
        with explained(f"The weights of {self.name} could not be loaded"):
            weights: dict[str, torch.Tensor] = {}
            for file in self.weight_files():
                weights |= load_file(self.folder / file)
            model.load_state_dict(weights, strict=False, assign=True)
            # Converts the table of positions too, which is not stored.
            model.to(dtype or model.dtype)
        self._set_generation(model)
        return model.eval()

    def _compare(self, model: Any, stored: dict[str, Shape]) -> None:
        """Raise a `StorageError` unless the files have exactly the weights that the configuration promises."""
        files = first_few(self.weight_files())
        shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
        missing = sorted(shapes.keys() - stored.keys() - set(model.all_tied_weights_keys))
        if missing:
            raise StorageError(
                f"The weights of {self.name} ({files}) are incomplete: {first_few(missing)} missing, which its "
                f"{CONFIG_FILE} promises."
            )
        unknown = sorted(stored.keys() - shapes.keys())
        if unknown:
            raise StorageError(
                f"The weights of {self.name} ({files}) have parts that its {CONFIG_FILE} has no place for: "
                f"{first_few([reprlib.repr(name) for name in unknown])}."
            )
        for name, shape in stored.items():
            if shape != shapes[name]:
                raise StorageError(
                    f"The weights of {self.name} ({files}) do not fit its {CONFIG_FILE}: {name} must have the shape "
                    f"{shapes[name]}, but has {shape}."
                )

    def _set_generation(self, model: Any) -> None:
        """Give a model its folder's settings of generation, and generate once to see that they work."""
        if not self.has(GENERATION_FILE):
            return
        content = self.read(GENERATION_FILE)
        with explained(f"{GENERATION_FILE} of {self.name} cannot be used"):
            for name, most in MAX_GENERATION.items():
                value = content.get(name)
                if value is not None and not (type(value) is int and 0 <= value <= most):
                    raise ValueError(
                        f"{name} must be a whole number of at most {most}, but it is {reprlib.repr(value)}."
                    )
            model.generation_config = GenerationConfig.from_dict(content)
            model.generate(torch.zeros((1, 1), dtype=torch.long), max_new_tokens=4, do_sample=False)

    def tokenizer(self, *, vocab_size: int) -> Any:
        """The tokenizer, with no token beyond the model's vocabulary."""
        if not (self.has(TOKENIZER_FILE) or self.has(SENTENCEPIECE_FILE)):
            raise StorageError(
                f"The folder {self.name} has no tokenizer: neither {TOKENIZER_FILE} nor {SENTENCEPIECE_FILE} is there."
            )
        files = [file for file in TOKENIZER_FILES if self.has(file)]
        for file in files:
            if file.endswith(".json"):
                self.read(file)
        with explained(f"{self.name} has no tokenizer that can be loaded ({', '.join(files)})"):
            # The class follows from the tokenizer's own files. Without a configuration, transformers would read the
            # model's, which may name foreign code.
            tokenizer = AutoTokenizer.from_pretrained(
                self.folder, config=ChatformerConfig(), trust_remote_code=False, local_files_only=True
            )
            longest, rows = tokenizer.model_max_length, tokenizer.get_vocab().values()
            if not isinstance(longest, (int, float)) or not longest >= 1:
                raise ValueError(f"model_max_length must be at least 1, but it is {reprlib.repr(longest)}")
            if not rows:
                raise ValueError("its vocabulary is empty")
            if max(rows) >= vocab_size:
                raise ValueError(
                    f"it does not match its model: it has a token {max(rows)}, and the vocabulary's rows are 0 to "
                    f"vocab_size - 1 ({vocab_size - 1})"
                )
            self._try(tokenizer)
        return tokenizer

    def _try(self, tokenizer: Any) -> None:
        """Raise an error of some kind unless the tokenizer encodes a conversation, or a text, and decodes it."""
        if tokenizer.chat_template is None:
            ids = tokenizer("Hello!")["input_ids"]
        else:
            ids = encode_conversation(tokenizer, [{"role": "user", "content": "Hello!"}])
        if not ids:
            raise ValueError("it encodes a conversation to no token")
        tokenizer.decode(ids, skip_special_tokens=True)
