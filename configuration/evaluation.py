"""The settings of `chatformer evaluate` and `chatformer doctor`, each a flag."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from .data import BleuTokenize, ReadingSettings
from .declaring import AtLeast, MoreThan, Needs, OfHub
from .replies import EngineName, PretrainedSettings, SearchSettings


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings(ReadingSettings, SearchSettings, PretrainedSettings):
    """Measure a trained model on conversations: its loss, and its replies compared with two free baselines."""

    data: tuple[str, ...] = ()
    """Conversations to measure on, in any form that training takes; those that the run was validated on unless
    given."""
    training_data: tuple[str, ...] = ()
    """What the model was trained on, read as --data is, to separate answers that it has seen from others; the
    run's own unless given."""
    max_target_tokens: Annotated[int, AtLeast(1)] | None = None
    """Longest reference answer; exchanges with longer ones are left out, and counted. The run's limit unless given."""
    max_replies: Annotated[int, AtLeast(0)] | None = None
    """Replies generated, to the first exchanges; to all of them unless given."""
    # Not the model's own: figures of different models are of the same search.
    length_penalty: Annotated[float, Needs("num_beams")] = 1.0
    """Exponent of the length that the score of a beam is divided by; above 0 favours long replies."""
    max_new_tokens: Annotated[int, AtLeast(1)] | None = None
    """Longest reply in tokens; half as much again as the longest reference unless given."""
    repetition_penalty: Annotated[float, MoreThan(0)] | None = None
    """Above 1, tokens that a reply already has become less likely; 1 changes nothing; the model's own, mostly 1.1,
    unless given."""
    bleu_tokenize: BleuTokenize = "13a"
    """What sacreBLEU counts as words. ko-mecab needs pip install 'sacrebleu[ko]', ja-mecab 'sacrebleu[ja]'."""
    engine: EngineName = "transformers"
    """What computes; ctranslate2 runs a folder that `chatformer export --to ctranslate2` wrote."""
    batch_tokens: Annotated[int, AtLeast(1)] = 8000
    """Source and target tokens of one batch."""
    device: str | None = None
    """Where to run, such as cpu or cuda; a GPU if there is one unless given."""
    output_file: str | None = None
    """The JSON file with all figures and replies; evaluation.json in the model's folder unless given, in the current
    one for a model on the Hub."""


@dataclass(frozen=True, kw_only=True)
class DoctorSettings(ReadingSettings):
    """Say in plain words what is wrong with data or with a trained model, and what to do."""

    subject: Annotated[tuple[str, ...], tyro.conf.Positional]
    """What to look at: the folder of a run or a model, or conversations in any form that training takes. With --data
    it is a model, and may be one on the Hub."""
    data: tuple[str, ...] = ()
    """Conversations to try a model on; those that its run was validated on unless given."""
    validation_data: tuple[str, ...] = ()
    """Conversations that training will be validated on, to find what is in both; a run has its own."""
    max_source_tokens: Annotated[int, AtLeast(1)] | None = None
    """Longest input that training will take; the run's limit unless given. Without it, data is measured in
    characters."""
    max_target_tokens: Annotated[int, AtLeast(1)] | None = None
    """Longest reply that training will take, likewise."""
    max_exchanges: Annotated[int, AtLeast(1)] = 300
    """Exchanges that a model is tried on, from all over the data."""
    revision: Annotated[str | None, OfHub("subject")] = None
    """Commit, tag or branch of a model on the Hub."""
    device: str | None = None
    """Where to run, such as cpu or cuda; a GPU if there is one unless given."""
    output_dir: str | None = None
    """Folder for doctor.json, with all findings, and lengths.png; nothing is written unless given."""
