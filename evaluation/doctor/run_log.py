"""The log of a run, and what it says of the training: whether it diverged or ended too early."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from chatformer.configuration.recipes import settings_of_run
from chatformer.configuration.training import TrainingSettings
from chatformer.storage.names import LOG_FILE, SETTINGS_FILE
from chatformer.storage.reading import read_json_lines

from .findings import Above, Check, Finding, percent, well

LISTENS, HARDLY_LISTENS = 0.05, 0.01
"""Shares of the loss with another source that the true one saves: from the first on a model listens, from the second
on it hardly listens."""


def share_of_bits(gain: float, bits_per_character: float) -> float:
    """What the true source saves, as a share of the bits per character that another one leaves; 1 if it saves all."""
    return gain / max(bits_per_character + gain, 1e-6)


def saved_by(source: str, gain: float, bits_per_character: float) -> str:
    """A sentence that says what the true `source`, such as a question, saves."""
    return (
        f"The true {source} saves {percent(max(share_of_bits(gain, bits_per_character), 0))} of the loss with another "
        f"one ({gain:.3f} of {bits_per_character + gain:.3f} bits per character)."
    )


@dataclass(frozen=True)
class RunLog:
    """The settings of a run, and the lines of its log."""

    settings: TrainingSettings
    lines: Sequence[dict[str, Any]]

    @classmethod
    def of(cls, folder: Path) -> "RunLog | None":
        """The log in a run's folder; None if the folder is not a run's."""
        if not (folder / SETTINGS_FILE).is_file() or not (folder / LOG_FILE).is_file():
            return None
        return cls(settings_of_run(folder), read_json_lines(folder / LOG_FILE))

    @cached_property
    def steps(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if "loss" in line]

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if "eval_loss" in line]

    @property
    def num_steps(self) -> int:
        return max((line["step"] for line in self.lines), default=0)

    @property
    def gains(self) -> list[float]:
        """The share that the true source saved at each evaluation, as `share_of_bits` has it."""
        return [share_of_bits(line["eval_source_gain"], line["eval_bits_per_character"]) for line in self.evaluations]

    @property
    def never_listened(self) -> bool:
        """True if the model was evaluated, and did not listen at any evaluation."""
        return bool(self.gains) and max(self.gains) < HARDLY_LISTENS


DIVERGENCE = Check(
    name="divergence",
    bad=Above(problem=0),
    title="The training diverged",
    what_to_do="Train again with half the --learning-rate, more --warmup-steps and --max-grad-norm 1.",
)

DIVERGED = 1.2
"""How many times the lowest loss the last loss is, above which the training diverged."""

LINES_OF_A_LOSS = 20
"""Losses are means of one line in so many: a step of talk has another loss than one of pictures."""

NEARLY_NONE = 0.01
"""A loss so low that a multiple of it is no divergence."""

STILL_FALLING = Check(
    name="training",
    bad=Above(hint=0),
    good="It was trained long enough",
    title="The loss was still falling at the end",
)

FALLING = 0.99
"""Share of the second to last evaluation's loss under which the last one's shows that it was still falling."""


def check_log(log: RunLog) -> list[Finding]:
    """Whether a training diverged or ended too early."""
    # What JSON cannot hold is null.
    losses = [math.nan if line["loss"] is None else line["loss"] for line in log.steps]
    if not losses:
        return []
    if not math.isfinite(losses[-1]):
        return DIVERGENCE.findings(True, f"Its loss ended at {losses[-1]}.")
    width = 1 + len(losses) // LINES_OF_A_LOSS
    finite = [loss for loss in losses if math.isfinite(loss)]
    means = [fmean(finite[end - width : end]) for end in range(width, len(finite) + 1)]
    if means and means[-1] > max(DIVERGED * min(means), NEARLY_NONE):
        return DIVERGENCE.findings(True, f"Its loss ended at {means[-1]:.3f}, after {min(means):.3f}.")
    if len(log.evaluations) < 2:
        statement = f"Training loss {losses[0]:.3f} at the beginning, {losses[-1]:.3f} after {log.num_steps:,} steps."
        return well("training", "The loss fell", statement)
    before, last = (line["eval_loss"] for line in log.evaluations[-2:])
    best = min(log.evaluations, key=lambda line: line["eval_loss"])
    statement = (
        f"Validation loss {log.evaluations[0]['eval_loss']:.3f} at the first evaluation, {best['eval_loss']:.3f} "
        f"at its best (step {best['step']:,}), {last:.3f} at the end (step {log.num_steps:,})."
    )
    rates = [line["learning_rate"] for line in log.steps]
    reason, what_to_do = "", "Train longer: more --num-train-epochs or --max-steps."
    if rates[-1] < 0.01 * max(rates):
        reason = " By then the schedule had lowered the rate to almost 0."
        what_to_do = (
            "Train again for longer (--num-train-epochs or --max-steps): at this rate, more steps change nothing."
        )
    return STILL_FALLING.findings(
        last < FALLING * before and best is log.evaluations[-1],
        f"{statement}{reason}",
        found_if_good=statement,
        what_to_do=what_to_do,
    )
