"""Why a model does not listen or always says the same."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from chatformer.configuration.training import OptimizationSettings, decided
from chatformer.data.exchanges import EncodedExchanges

from .dependence import blocked_part
from .findings import Check, Finding, percent
from .run_log import RunLog

FEW_STEPS = 2000
"""Steps under which a model that does not listen yet may still begin to."""

FREQUENT_ANSWER = 0.1
"""Share of the training's most frequent answer above which a model may learn to give it always."""


@dataclass(frozen=True)
class Cause:
    """Why something is wrong, and what to do."""

    found: str
    what_to_do: str


def with_causes(
    check: Check, value: float, found: str, causes: Sequence[Cause], examples: Iterable[Any] = ()
) -> list[Finding]:
    """What a check found, and its causes if something is wrong."""
    return check.findings(
        value,
        " ".join([found, *(cause.found for cause in causes)]),
        found_if_good=found,
        what_to_do=" ".join(cause.what_to_do for cause in causes if cause.what_to_do),
        examples=examples,
    )


def named_by(finding: Finding) -> Cause:
    """The cause that another finding names."""
    return Cause(f"{finding.title!r} says why.", "Follow the advice there.")


def causes_of(
    model: Any, exchanges: EncodedExchanges, log: RunLog | None, most_frequent_answer: float | None
) -> list[Cause]:
    """
    Why the model does not listen or always says the same, the most probable cause first.

    `most_frequent_answer` is the share of the training's most frequent answer, if it is known.
    """
    causes = []
    blocked = blocked_part(model, exchanges)
    if blocked is not None:
        # The log of a model that never listened gives better advice.
        never_listened = log is not None and log.never_listened
        advice = "Train again with half the --learning-rate and twice the --warmup-steps; going on does not help."
        causes.append(Cause(blocked, "" if never_listened else advice))
    if log is not None:
        causes += causes_in_log(log, is_blocked=blocked is not None)
    return causes + causes_in_answers(most_frequent_answer)


def causes_in_answers(most_frequent_answer: float | None) -> list[Cause]:
    """The cause that too many of the training's answers are the same one."""
    if most_frequent_answer is None or most_frequent_answer <= FREQUENT_ANSWER:
        return []
    statement = f"{percent(most_frequent_answer)} of the training's answers are the same one."
    return [Cause(statement, "Keep a few of these exchanges in the data and remove the others.")]


def causes_in_log(log: RunLog, *, is_blocked: bool = False) -> list[Cause]:
    """The causes that a log shows. If the model `is_blocked`, too few steps are not the cause."""
    if not log.gains:
        return []
    plan = log.settings.optimization
    statement = f"It did not listen at any of {len(log.gains)} evaluations"
    if log.never_listened and log.num_steps < FEW_STEPS and not is_blocked:
        return [
            Cause(
                f"{statement}, but it has taken only {log.num_steps:,} steps. A model first learns which words are "
                "frequent, and begins to listen later, often after one or two thousand steps.",
                f"Train on, for {FEW_STEPS:,} steps or more (--num-train-epochs, --max-steps); a smaller "
                "--tokens-per-step makes more steps of the same data.",
            )
        ]
    if log.never_listened:
        return [
            Cause(
                f"{statement}, from the beginning of {log.num_steps:,} steps: the rate (--learning-rate "
                f"{plan.learning_rate:g}) was too high or its warm-up (--warmup-steps {plan.warmup_steps}) too short, "
                "and the decoder learnt to speak before the encoder had anything to say.",
                f"Train again with {slower(plan)}; going on does not help. The log shows at each evaluation what "
                "listening saves.",
            )
        ]
    if log.gains[-1] < 0.5 * max(log.gains):
        return [
            Cause(
                f"It had listened before ({percent(max(log.gains))} of the loss) and stopped.",
                "Use an earlier checkpoint, and train on from there with a lower --learning-rate.",
            )
        ]
    return []


def slower(plan: OptimizationSettings) -> str:
    """The flags of a training that begins more gently."""
    rate, warmup_steps = decided(plan.learning_rate) / 2, max(1000, 2 * decided(plan.warmup_steps))
    if plan.lr_scheduler_type != "noam":
        # Noam's rate is a factor; a higher rate than this is rarely good for the other schedules.
        rate = min(rate, 1e-3)
    return f"--learning-rate {rate:g} --warmup-steps {warmup_steps}, for {5 * warmup_steps:,} steps or more"
