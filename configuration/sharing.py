"""The settings of `chatformer ensemble`, `import`, `export`, `push` and `space`, each a flag."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from .declaring import Formerly, Needs, OfHub
from .replies import PretrainedSettings


@dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """Turn a MarianMT checkpoint, which is the same network under other names, into a Chatformer model."""

    checkpoint: Annotated[str, tyro.conf.Positional]
    """Folder of a MarianMT checkpoint, or its id on the Hub, such as Helsinki-NLP/opus-mt-en-de."""
    output_dir: str
    """Folder to write, new or empty."""
    revision: Annotated[str | None, OfHub("checkpoint")] = None
    """Commit, tag or branch of a checkpoint on the Hub."""
    sentences: str | None = None
    """A text file, one sentence a line, on which both models are compared; a few built-in ones unless given."""


@dataclass(frozen=True, kw_only=True)
class EnsembleSettings:
    """Make one model of several that were trained on the same data from different seeds: better replies, each of which
    takes as long as the members' together."""

    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL MODEL ...")]
    """Folders of two or more Transformers of one shape with one vocabulary, or their ids on the Hub, trained with one
    --split-seed or --validation-data. The ensemble generates as the first one's settings say."""
    output_dir: str
    """Folder to write, new or empty."""


@dataclass(frozen=True, kw_only=True)
class ExportSettings(PretrainedSettings):
    """Write a Chatformer model in another format, and prove that it answers as the model does."""

    to: Literal["marian", "ctranslate2", "onnx"]
    """The format: marian is loaded by transformers alone, ctranslate2 and onnx run without torch."""
    output_dir: str
    """Folder to write, new or empty."""
    quantization: Literal["float32", "float16", "int8", "int8_float32"] = "float32"
    """How ctranslate2 stores the weights; the other formats have float32 only."""
    sentences: str | None = None
    """A text file, one sentence a line, on which model and export are compared; a few built-in ones unless given."""


@dataclass(frozen=True, kw_only=True)
class PushSettings:
    """Publish a trained model on the Hugging Face Hub: weights, tokenizer, code, card and record, nothing else."""

    model: Annotated[str, tyro.conf.Positional]
    """Folder of a trained model."""
    hub_model_id: Annotated[str, Formerly("repo")]
    """Name of the repository, such as my-bot or my-name/my-bot; it is made where it does not exist."""
    hub_private_repo: Annotated[bool, Formerly("private")] = False
    """Make the repository for your eyes only."""
    revision: str | None = None
    """Branch to push to, which is made where it does not exist; main unless given."""
    create_pr: bool = False
    """Propose the push as a pull request instead of changing the branch."""
    commit_message: str = "Upload a Chatformer model"
    """What the commit says."""
    language: tuple[str, ...] = ()
    """Codes of the bot's languages, such as ko en; found from the training data unless given."""
    license: str | None = None
    """The model's licence, such as apache-2.0 or mit; that of the training data, where it is known, unless given."""
    hub_samples: Annotated[bool, Formerly("samples")] = True
    """Show in the card, and keep in the log, a few questions of the validation data, which may be private, and the
    bot's replies to them; with --no-hub-samples it only says hello, and the repository holds no conversation."""
    replace_card: bool = False
    """Write a new model card, even over one that was written or edited by hand."""
    output_dir: str | None = None
    """Write what would travel into this folder, new or empty, to read or edit, and push nothing."""
    dry_run: bool = False
    """List what would travel, and push nothing."""


@dataclass(frozen=True, kw_only=True)
class SpaceSettings:
    """Write a Gradio Space, a web page on which a model is talked to; it runs at home as on the Hub."""

    model: Annotated[str, tyro.conf.Positional]
    """Folder of a trained model, which is copied into the Space, or a model's id on the Hub, loaded from there."""
    output_dir: str
    """Folder to write, new or empty."""
    revision: Annotated[str | None, OfHub("model")] = None
    """Commit, tag or branch of a model on the Hub; the Space is pinned to the commit that it is at."""
    title: str | None = None
    """Title of the page; the model's name unless given."""
    hub_samples: Annotated[bool, Formerly("samples")] = True
    """Offer a few questions of the validation data, which may be private, as examples; otherwise a greeting alone."""
    repo: str | None = None
    """Name of a Space to push to as well, such as my-name/my-bot; it is made where it does not exist."""
    hub_private_repo: Annotated[bool, Formerly("private"), Needs("repo")] = False
    """Make the Space for your eyes only."""
