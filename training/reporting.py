"""What a run says: its announcement, the lines of its log, its samples, its settings, and its end."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chatformer.configuration.training import TrainingSettings
from chatformer.data.exchanges import EncodedExchanges
from chatformer.evaluation.figures import Evaluation
from chatformer.storage.explaining import counted
from chatformer.storage.names import (
    CHECKPOINT_PREFIX,
    CURVES_FILE,
    LOG_FILE,
    RECORD_FILE,
    SETTINGS_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
)
from chatformer.storage.printing import plain_console

from .planning import Facts, shortcomings
from .progress import Progress


def announce(
    settings: TrainingSettings, facts: Facts, *, num_parameters: int, num_steps: int, minutes: float | None
) -> None:
    """Print what is about to run, how long it takes, and why it may not teach."""
    print(announcement(settings, facts, num_parameters, num_steps, minutes), file=sys.stderr)
    for problem in shortcomings(settings, facts, num_parameters, num_steps, minutes):
        print(f"warning: {problem}", file=sys.stderr)


def announcement(
    settings: TrainingSettings, facts: Facts, num_parameters: int, num_steps: int, minutes: float | None
) -> str:
    """What is about to run, in one sentence."""
    time = "" if minutes is None else f", about {minutes:.0f} minutes" if minutes >= 1.5 else ", about a minute"
    size = settings.model.size if has_shape_of_size(settings) else "a model"
    if settings.model.architecture != "transformer":
        size = f"{settings.model.architecture} {size}" if has_shape_of_size(settings) else settings.model.architecture
    return (
        f"{counted(facts.exchanges, 'exchange')} to learn, {facts.validation_exchanges:,} to validate on: {size} "
        f"({num_parameters / 1e6:.1f} million parameters), {counted(num_steps, 'step')} of "
        f"{settings.optimization.tokens_per_step:,} tokens{time} on {facts.hardware}."
    )


def has_shape_of_size(settings: TrainingSettings) -> bool:
    """True if the model has the shape of its named size."""
    return all(
        getattr(settings.model, name) is None
        for name in ("d_model", "d_embedding", "d_attention", "d_ff", "num_heads", "encoder_layers", "decoder_layers")
    )


def print_dry_run(settings: TrainingSettings, figures: dict[str, Any]) -> None:
    """Print the settings and figures of a run."""
    from rich.table import Table

    console = plain_console()
    for title, entries in (("settings", settings.flat()), ("run", figures)):
        table = Table(title=title, title_justify="left", show_header=False)
        for name, value in entries.items():
            if value is not None:
                table.add_row(name, " ".join(map(str, value)) if isinstance(value, tuple) else str(value))
        console.print(table)


def evaluation_figures(evaluation: Evaluation) -> dict[str, Any]:
    """The figures of an evaluation, by their names in the log."""
    figures = dataclasses.asdict(evaluation) | {"score": evaluation.score}
    return {f"eval_{name}": value for name, value in figures.items() if value is not None}


def evaluation_line(step: int, evaluation: Evaluation, is_best: bool) -> str:
    """The figures of an evaluation in a line for people."""
    parts = [f"step {step}: loss {evaluation.loss:.3f}", f"{evaluation.bits_per_character:.3f} bits per character"]
    parts.append(f"{evaluation.source_gain:.3f} of them saved by listening")
    if evaluation.history_gain is not None:
        parts.append(f"{evaluation.history_gain:.3f} by remembering")
    if evaluation.chrf is not None:
        parts.append(f"chrF {evaluation.chrf:.1f}")
    if evaluation.exact_match is not None:
        parts.append(f"exact {evaluation.exact_match:.1f}%")
        parts.append(f"{evaluation.distinct_replies} distinct replies")
    return ", ".join(parts) + (" (best so far)" if is_best else "")


def sample_replies(
    exchanges: EncodedExchanges, replies: Sequence[str], turn: int, count: int = 3
) -> list[dict[str, str]]:
    """A few of the replies, other ones at each `turn`."""
    indices = sorted({(turn * count + offset) % len(replies) for offset in range(count)}) if replies else []
    return [
        {
            "source": exchanges.histories[index][-1]["content"],
            "reply": replies[index],
            "reference": exchanges.replies[index],
        }
        for index in indices
    ]


def stop_message(folder: Path, progress: Progress) -> str:
    """How a stopped run continues."""
    return (
        f"\nStopped after step {progress.step}; nothing is lost. Continue with\n"
        f"    chatformer train --output-dir {folder} --resume"
    )


def end_message(folder: Path, progress: Progress) -> str:
    """What a finished run wrote, and what to do next."""
    best = ""
    if progress.best_step and progress.best_step < progress.step:
        best = f", the best of the run, from step {progress.best_step}"
    curves = f"{CURVES_FILE}  the curves"
    if not (folder / CURVES_FILE).is_file():
        curves = "(no curves: pip install 'chatformer[plots]' draws them)"
    return (
        f"\nDone in {progress.seconds / 60:.1f} minutes. Written to {folder}:\n"
        f"    {WEIGHTS_FILE}, {TOKENIZER_FILE}, ...  the model{best}\n"
        f"    {CHECKPOINT_PREFIX}{progress.step}  the last state of the training\n"
        f"    {LOG_FILE}, {RECORD_FILE}, {SETTINGS_FILE}  the log, what was trained and how\n"
        f"    {curves}\n"
        f"Talk to it with\n    chatformer chat {folder}"
    )
