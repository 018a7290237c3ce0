"""The figures of a run over its steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatformer.storage.reading import read_json_lines

from .drawing import PictureError, new_figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def curves(log: Sequence[Mapping[str, Any]]) -> "Figure":
    """Loss, validation replies and learning rate over the steps of a log."""
    training = [line for line in log if "loss" in line]
    evaluations = [line for line in log if "eval_loss" in line]
    steps = [line["step"] for line in evaluations]

    figure = new_figure(12, 3.6)
    loss, replies, rate = figure.subplots(1, 3)
    loss.plot([line["step"] for line in training], [line["loss"] for line in training], label="training (smoothed)")
    loss.plot(steps, [line["eval_loss"] for line in evaluations], "o-", label="validation")
    loss.set(title="Loss", xlabel="step", ylabel="nats per target token")
    loss.legend()
    for name, label in (("eval_chrf", "chrF"), ("eval_exact_match", "exact match, %")):
        if evaluations and all(name in line for line in evaluations):
            replies.plot(steps, [line[name] for line in evaluations], "o-", label=label)
    replies.set(title="Validation replies", xlabel="step", ylim=(0, None))
    if replies.lines:
        replies.legend()
    rate.plot([line["step"] for line in training], [line["learning_rate"] for line in training])
    rate.set(title="Learning rate", xlabel="step", ylim=(0, None))
    for axes in (loss, replies, rate):
        axes.grid(alpha=0.3)
    return figure


def draw_curves(log_file: Path, picture: Path) -> bool:
    """Draw the curves of a log; false if matplotlib is missing."""
    try:
        figure = curves(read_json_lines(log_file))
    except PictureError:
        return False
    save(figure, picture)
    return True
