"""What the log of a finished run says about its model: whether it listens, and whether its replies differ."""

from chatformer.evaluation.shortening import shortened

from .causes import causes_in_answers, causes_in_log, named_by, with_causes
from .findings import Finding, percent
from .replies import OFTEN_SAME, SAME_REPLY, check_listening
from .run_log import RunLog, share_of_bits
from .trial import FEW_QUESTIONS

DEAF = 5e-4
"""Share of the loss that another question changes, under which it changes nothing."""


def verdict(
    log: RunLog, *, num_replies: int, step: int | None = None, most_frequent_answer: float | None = None
) -> list[Finding]:
    """
    The problems that the evaluation at `step`, or the last one, shows; the first names its probable causes.

    There is none if the model listens and its replies differ, if nothing was evaluated, or if there are too few
    replies (`num_replies`) to judge. A model whose replies differ with the question listens, however badly it predicts
    unseen answers: with little data, no model predicts them well. Replies that are drawn differ by themselves; then it
    is deaf if the question changes nothing, for better or worse. `most_frequent_answer` is the share of the training's
    most frequent answer, if it is known.
    """
    evaluations = [line for line in log.evaluations if step is None or line["step"] == step]
    if not evaluations or num_replies < FEW_QUESTIONS:
        return []
    figures = evaluations[-1]
    share = figures["eval_most_frequent_reply"] / 100
    gain, bits = figures["eval_source_gain"], figures["eval_bits_per_character"]
    is_deaf = abs(share_of_bits(gain, bits)) < DEAF
    if share <= OFTEN_SAME and not is_deaf:
        return []
    causes = causes_in_log(log) + causes_in_answers(most_frequent_answer)
    listening = check_listening(gain, bits, causes)
    if listening[0].severity == "problem":
        causes = [named_by(listening[0])]
    statement = (
        f"{num_replies:,} questions got {figures['eval_distinct_replies']:,} different replies; the most frequent "
        f"one makes up {percent(share)} of them."
    )
    examples = (f"{shortened(sample['source'])} → {shortened(sample['reply'])}" for sample in figures["samples"])
    findings = [*listening, *with_causes(SAME_REPLY, share, statement, causes, examples)]
    return [finding for finding in findings if finding.severity == "problem"]
