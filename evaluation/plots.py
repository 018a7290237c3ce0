"""The curves of a run as a picture."""

from pathlib import Path

from chatformer.storage.reading import read_json_lines
from chatformer.storage.writing import whole_file


def draw_curves(log_file: Path, picture: Path) -> bool:
    """Draw loss, learning rate and replies over the steps of a log; false if matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    lines = read_json_lines(log_file)
    training = [line for line in lines if "loss" in line]
    evaluations = [line for line in lines if "eval_loss" in line]
    steps = [line["step"] for line in evaluations]

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
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
    with whole_file(picture) as partial:
        figure.savefig(partial, dpi=120, format="png")
    return True
