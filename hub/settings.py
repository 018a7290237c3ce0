"""The settings of `chatformer import` and `chatformer export`, each a flag."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """Turn a MarianMT checkpoint, which is the same network under other names, into a Chatformer model."""

    checkpoint: Annotated[str, tyro.conf.Positional]
    """Folder of a MarianMT checkpoint, or its id on the Hub, such as Helsinki-NLP/opus-mt-en-de."""
    output_dir: str
    """Folder to write, new or empty."""
    revision: str | None = None
    """Commit, tag or branch of a checkpoint on the Hub."""
    sentences: str | None = None
    """A text file, one sentence a line, on which both models are compared; a few built-in ones unless given."""


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Write a Chatformer model in another format, and prove that it answers as the model does."""

    model: Annotated[str, tyro.conf.Positional]
    """Folder of a trained model, or a model's id on the Hub."""
    to: Literal["marian", "ctranslate2", "onnx"]
    """The format: marian is loaded by transformers alone, ctranslate2 and onnx run without torch."""
    output_dir: str
    """Folder to write, new or empty."""
    quantization: Literal["float32", "float16", "int8", "int8_float32"] = "float32"
    """How ctranslate2 stores the weights; the other formats have float32 only."""
    revision: str | None = None
    """Commit, tag or branch of a model on the Hub."""
    sentences: str | None = None
    """A text file, one sentence a line, on which model and export are compared; a few built-in ones unless given."""
