"""What the log of a finished run says of the model, in the doctor's words: whether it listens and what it says."""

from .findings import Finding, percent, shortened, shown
from .model import (
    FEW_QUESTIONS,
    OFTEN_SAME_REPLY,
    SAME_REPLY,
    RunLog,
    causes_in_answers,
    causes_in_log,
    check_listening,
    same_reply,
    see,
)


def verdict(
    log: RunLog, *, num_replies: int, step: int | None = None, most_frequent_answer: float | None = None
) -> list[Finding]:
    """
    The problems that the evaluation at `step`, or the last one, shows, the first of them with its probable causes.

    None where the model listens and its replies differ, where nothing was evaluated, or where the evaluation gave
    fewer replies (`num_replies`) than can be judged. A model whose replies differ with the question listens, however
    badly it predicts answers that it has not seen: of small data nothing else is to be expected.
    `most_frequent_answer` is the share of the training's most frequent answer, where it is known.
    """
    evaluations = [line for line in log.evaluations if step is None or line["step"] == step]
    if not evaluations or num_replies < FEW_QUESTIONS:
        return []
    figures = evaluations[-1]
    share = figures["eval_most_frequent_reply"] / 100
    if share <= OFTEN_SAME_REPLY:
        return []
    suspected = causes_in_log(log) + causes_in_answers(most_frequent_answer)
    listening = check_listening(figures["eval_source_gain"], figures["eval_bits_per_character"], suspected)
    problems = [finding for finding in listening if finding.severity == "problem"]
    if share > SAME_REPLY:
        if problems:
            suspected = [see(problems[0])]
        found = f"{num_replies:,} questions got {figures['eval_distinct_replies']:,} different replies; the most "
        found += f"frequent one makes up {percent(share)} of them."
        examples = shown(
            f"{shortened(sample['source'])} → {shortened(sample['reply'])}" for sample in figures["samples"]
        )
        problems.append(same_reply(share, found, suspected, examples))
    return problems
