"""
Load a model of somebody else's: its data alone, never its code, and nothing that its files only claim to be.

What a folder says is compared with what it holds before any memory is taken, and whatever does not fit is an error that
names the file.
"""

import contextlib
import hashlib
import json
import re
import reprlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import parse_ratelimit_headers
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoTokenizer, GenerationConfig

from chatformer.configuration import ChatformerConfig
from chatformer.conversation import encode_conversation
from chatformer.modeling_chatformer import ChatformerForConditionalGeneration

CONFIGURATION = "config.json"
GENERATION = "generation_config.json"
WHOLE_WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
WEIGHTS = (WHOLE_WEIGHTS, WEIGHTS_INDEX, "model-*-of-*.safetensors")
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "source.spm",
    "target.spm",
)

DTYPES = {"F64", "F32", "F16", "BF16"}
"""What a safetensors file calls numbers that weights can be."""

# Bounds far beyond every model, below which nothing takes long or much memory.
MAX_TEXT_BYTES = 2**28
MAX_LAYERS = 1000
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


class CheckpointError(ValueError):
    """A model that cannot be loaded: the message names the file, and says what was expected and what was found."""


@dataclass(frozen=True)
class Checkpoint:
    """A saved model: the name that somebody gave, and the folder that it is in."""

    name: str
    folder: Path
    commit: str | None = None
    """The commit that it is of, where it came from the Hub."""

    @classmethod
    def find(cls, name: str, revision: str | None = None) -> "Checkpoint":
        """Find the model of a folder, or fetch that of the Hub: its data, and no code."""
        folder, commit = Path(name), None
        if not folder.is_dir():
            files = [CONFIGURATION, GENERATION, *WEIGHTS, *TOKENIZER]
            # Of the name, of the network, of the Hub: there is no model to be had.
            with explained(f"There is no folder {name}, and the Hub gave no model {name}"):
                try:
                    folder = Path(snapshot_download(name, revision=revision, allow_patterns=files))
                except Exception as error:
                    if (refusal := refusal_by(error, f"{constants.ENDPOINT}/{name}")) is None:
                        raise
                    raise ValueError(refusal) from error
            commit = folder.name
        found = cls(name, folder, commit)
        if not found.has(CONFIGURATION):
            raise CheckpointError(
                f"The folder {name} holds no model: it has no {CONFIGURATION}. Give the --output-dir of a training "
                "that has published one."
            )
        return found

    def show_commit(self) -> None:
        """Say which commit a model of the Hub is of; it stands beside the output, which may be read by a program."""
        if self.commit is not None:
            print(f"{self.name}, commit {self.commit[:7]}", file=sys.stderr)

    def has(self, file: str) -> bool:
        """Return whether a file is there; raise a `CheckpointError` for one that is too large, or no file."""
        path = self.folder / file
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{file} of {self.name} must be a file, but it is none.")
        if path.is_file() and not file.endswith(".safetensors") and path.stat().st_size > MAX_TEXT_BYTES:
            raise CheckpointError(
                f"{file} of {self.name} must have at most {MAX_TEXT_BYTES:,} bytes, but it has {path.stat().st_size:,}."
            )
        return path.is_file()

    def read(self, file: str) -> dict[str, Any]:
        """Return what a JSON file holds."""
        with explained(f"{file} of {self.name} could not be read"):
            content = json.loads((self.folder / file).read_text("utf-8"))
        if not isinstance(content, dict):
            raise CheckpointError(
                f"{file} of {self.name} must hold names and values, but it holds a {type(content).__name__}."
            )
        return content

    def config(self) -> ChatformerConfig:
        """Return the configuration of a Chatformer that can be."""
        content = self.read(CONFIGURATION)
        model_type = content.get("model_type")
        if model_type != ChatformerConfig.model_type:
            hint = " `chatformer import` turns it into one." if model_type == "marian" else ""
            found = f"its {CONFIGURATION} says {reprlib.repr(model_type)}"
            raise CheckpointError(f"{self.name} must be a Chatformer model, but {found}.{hint}")
        with explained(f"{CONFIGURATION} of {self.name} is no Chatformer's"):
            config = ChatformerConfig.from_dict(content)
            for name in ("encoder_layers", "decoder_layers"):
                if getattr(config, name) > MAX_LAYERS:
                    raise ValueError(f"{name} must be at most {MAX_LAYERS}, but it is {getattr(config, name)}.")
            if config.max_position_embeddings * config.d_model > MAX_POSITION_NUMBERS:
                raise ValueError(
                    f"a table of max_position_embeddings ({config.max_position_embeddings}) by d_model "
                    f"({config.d_model}) must have at most {MAX_POSITION_NUMBERS} numbers. Lower the former: longer "
                    "inputs extend the table."
                )
        # A file does not choose which code computes: it could be that of somebody else on the Hub.
        config._attn_implementation = None
        return config

    def weight_files(self) -> list[str]:
        """Return the names of the files of weights."""
        if self.has(WHOLE_WEIGHTS):
            return [WHOLE_WEIGHTS]
        if not self.has(WEIGHTS_INDEX):
            raise CheckpointError(
                f"The weights of {self.name} are missing: there is no {WHOLE_WEIGHTS}. Pickles, such as "
                "pytorch_model.bin, are not loaded, as they can run code."
            )
        parts = self.read(WEIGHTS_INDEX).get("weight_map")
        if not isinstance(parts, dict) or not all(isinstance(file, str) for file in parts.values()):
            raise CheckpointError(f"{WEIGHTS_INDEX} of {self.name} must have a weight_map of names and files.")
        files = sorted(set(parts.values()))
        for file in files:
            if not re.fullmatch(r"[\w.-]+", file) or not any(fnmatchcase(file, pattern) for pattern in WEIGHTS):
                raise CheckpointError(
                    f"{WEIGHTS_INDEX} of {self.name} must name its parts, but not {reprlib.repr(file)}."
                )
            if not self.has(file):
                raise CheckpointError(f"The weights of {self.name} are incomplete: {file} is missing.")
        return files

    def weights_sha256(self) -> dict[str, str]:
        """Return the SHA-256 of each file of weights by its name."""
        hashes = {}
        for file in self.weight_files():
            with (self.folder / file).open("rb") as opened:
                hashes[file] = hashlib.file_digest(opened, "sha256").hexdigest()
        return hashes

    def stored_shapes(self) -> dict[str, Shape]:
        """Return the shape of each weight, as the files' headers have it."""
        shapes: dict[str, Shape] = {}
        for file in self.weight_files():
            with (
                explained(f"The weights of {self.name} could not be read: {file} is broken"),
                safe_open(self.folder / file, framework="pt") as opened,
            ):
                for name in opened.keys():  # noqa: SIM118  (it is no mapping)
                    stored = opened.get_slice(name)
                    if stored.get_dtype() not in DTYPES:
                        raise ValueError(f"{reprlib.repr(name)} must be of real numbers, but is {stored.get_dtype()}.")
                    shapes[name] = tuple(stored.get_shape())
        return shapes

    def model(self, dtype: torch.dtype | None = None) -> ChatformerForConditionalGeneration:
        """Return the model, on the CPU, as it was stored or as another `dtype`."""
        config = self.config()
        with explained(f"{CONFIGURATION} of {self.name} is no Chatformer's"), torch.device("meta"):
            model: Any = ChatformerForConditionalGeneration(config)
        self._compare(model, self.stored_shapes())
        with explained(f"The weights of {self.name} could not be loaded"):
            weights: dict[str, torch.Tensor] = {}
            for file in self.weight_files():
                weights |= load_file(self.folder / file)
            model.load_state_dict(weights, strict=False, assign=True)
            # Also the table of positions, which is not stored.
            model.to(dtype or model.get_input_embeddings().weight.dtype)
        self._set_generation(model)
        return model.eval()

    def _compare(self, model: Any, stored: dict[str, Shape]) -> None:
        """Raise a `CheckpointError` unless the files have the weights that the configuration promises, no others."""
        files = first_few(self.weight_files())
        promised = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
        missing = sorted(promised.keys() - stored.keys() - set(model.all_tied_weights_keys))
        if missing:
            raise CheckpointError(
                f"The weights of {self.name} ({files}) are incomplete: {first_few(missing)} missing, which its "
                f"{CONFIGURATION} promises."
            )
        unknown = sorted(stored.keys() - promised.keys())
        if unknown:
            raise CheckpointError(
                f"The weights of {self.name} ({files}) have parts that its {CONFIGURATION} has no place for: "
                f"{first_few([reprlib.repr(name) for name in unknown])}."
            )
        for name, shape in stored.items():
            if shape != promised[name]:
                raise CheckpointError(
                    f"The weights of {self.name} ({files}) do not fit its {CONFIGURATION}: {name} must have the shape "
                    f"{promised[name]}, but has {shape}."
                )

    def _set_generation(self, model: Any) -> None:
        """Give a model its folder's settings of generation, once it has said something by them."""
        if not self.has(GENERATION):
            return
        content = self.read(GENERATION)
        with explained(f"{GENERATION} of {self.name} cannot be used"):
            for name, most in MAX_GENERATION.items():
                value = content.get(name)
                if value is not None and not (type(value) is int and 0 <= value <= most):
                    raise ValueError(
                        f"{name} must be a whole number of at most {most}, but it is {reprlib.repr(value)}."
                    )
            model.generation_config = GenerationConfig.from_dict(content)
            model.generate(torch.zeros((1, 1), dtype=torch.long), max_new_tokens=4, do_sample=False)

    def tokenizer(self, *, vocab_size: int) -> Any:
        """Return the tokenizer, which has no token beyond the model's vocabulary."""
        if not (self.has("tokenizer.json") or self.has("source.spm")):
            raise CheckpointError(
                f"The folder {self.name} has no tokenizer: neither tokenizer.json nor source.spm is there."
            )
        files = [file for file in TOKENIZER if self.has(file)]
        for file in files:
            if file.endswith(".json"):
                self.read(file)
        with explained(f"{self.name} has no tokenizer that could be loaded ({', '.join(files)})"):
            # Its class follows from its own files; without a configuration they would be asked for foreign code.
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
        """Raise an error of whatever kind unless the tokenizer reads a conversation, or a text, and writes it."""
        if tokenizer.chat_template is None:
            ids = tokenizer("Hello!")["input_ids"]
        else:
            ids = encode_conversation(tokenizer, [{"role": "user", "content": "Hello!"}])
        if not ids:
            raise ValueError("it reads nothing in a conversation")
        tokenizer.decode(ids, skip_special_tokens=True)


@contextlib.contextmanager
def explained(problem: str) -> Iterator[None]:
    """Turn whatever a library says of a broken file into a `CheckpointError` that begins with `problem`."""
    try:
        yield
    except (CheckpointError, KeyboardInterrupt, SystemExit):
        raise
    # Broken files raise all kinds of errors, and tokenizers' panics are no `Exception`.
    except BaseException as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        # Of a key that is missing, the error says the name alone.
        raise CheckpointError(f"{problem}: {'there is no ' if isinstance(error, KeyError) else ''}{said}") from error


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def refusal_by(error: BaseException, url: str) -> str | None:
    """Return what to do where the Hub lets only some people in, or nobody for a while; nothing for other errors."""
    answer = next((cause for cause in chain_of(error) if isinstance(cause, HfHubHTTPError)), None)
    if isinstance(answer, GatedRepoError):
        return (
            f"{url} is gated: its authors must let you in first. Log in with `hf auth login`, ask for access on that "
            "page, and try again once it is granted."
        )
    if isinstance(answer, RepositoryNotFoundError):
        return f"{url} does not exist, or is private: log in with `hf auth login` as somebody who may see it."
    if answer is not None and answer.response is not None and answer.response.status_code == 429:
        limit = parse_ratelimit_headers(answer.response.headers)
        when = f"in {limit.reset_in_seconds} seconds" if limit else "in a few minutes"
        return f"The Hub has had too many requests from you or your network (429): try again {when}."
    return None


def first_few(names: list[str]) -> str:
    """Return the first few names and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
