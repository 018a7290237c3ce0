"""
The plan of a training: settings that no flag and no recipe gives follow from the data and from the hardware.

`plan` is a pure function: a table and a few lines of arithmetic. docs/planning.md says where its numbers come from.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from chatformer.configuration.configuration_chatformer import root_of
from chatformer.configuration.declaring import SettingsError
from chatformer.configuration.model import OF_SPARSE_ATTENTION
from chatformer.configuration.sizes import sizes_of
from chatformer.configuration.training import TrainingSettings
from chatformer.data.preparation import PreparedData
from chatformer.data.prose import is_prose
from chatformer.evaluation.doctor.size import SIZE
from chatformer.evaluation.figures import has_metrics
from chatformer.pictures import PICTURE
from chatformer.tunes import TUNE

from .pace import Pace

if TYPE_CHECKING:
    from accelerate import Accelerator

FEW_STEPS = 1000
"""With fewer steps a model learns which words are frequent, and hardly which reply follows a question."""

STEPS_PER_WARMUP_STEP = 5
"""A warm-up longer than a fifth of the steps leaves too few steps at a rate that teaches."""

LONGEST_WARMUP = 1000

ENOUGH_VALIDATION = 100
"""With fewer exchanges, the figures of a validation say more about chance than about the model."""

FEW_VALIDATION = 20

LONG_MINUTES = 60

REPLIES_TRIED = 100
"""The first replies, which show whether a model is to draw."""

EVALUATIONS = 5
"""Evaluations of a run."""

DRAWN_PROSE = (0.8, 0.95)
"""Temperature and top-p of prose: the likeliest continuation goes round in circles."""

PICTURES_DROPOUT = (0.05, 0.6)
"""Of pictures, the most dropout and the share of steps that have it: the rest learn single things by heart."""

AVERAGED_SHARE = 0.2
"""Of the steps, the last ones that averaged checkpoints are of, as those of a moving average are."""

LEAST_FACTOR = 0.05
"""A factor of the paper's rate under which nothing is learnt: it was meant as a rate."""

MOST_REPEATS = 4
"""More than this many times the steps that the data needs teach nothing, however many minutes are given."""


class Row(NamedTuple):
    """A line of the table: settings for data of up to `tokens` source and target tokens."""

    tokens: float
    size: str
    tokens_per_step: int
    steps: int
    dropout: float
    bpe_dropout: float


TABLE = (
    # Short exchanges have about 15 tokens: up to 130, 400, 1,300, 4,000 and 13,000 of them, then large corpora.
    Row(2e3, "tiny", 200, 2000, 0.1, 0.1),
    Row(6e3, "tiny", 300, 2500, 0.1, 0.1),
    Row(2e4, "mini", 400, 2500, 0.1, 0.1),
    Row(6e4, "mini", 500, 3500, 0.1, 0.1),
    Row(2e5, "mini", 500, 7000, 0.1, 0.1),
    Row(2e6, "mini", 2000, 10_000, 0.3, 0.0),
    Row(2e7, "mini", 2000, 15_000, 0.1, 0.0),
    Row(math.inf, "small", 4000, 20_000, 0.1, 0.0),
)
"""For CPUs, from small data to large."""

LARGER = {"tiny": "tiny", "mini": "small", "small": "base"}
"""The size that a GPU trains in the time that a CPU needs for the size on the left."""

TOKENS_OF_A_GPU = 4
"""A GPU's step has this many times the tokens of a CPU's, if the data has enough."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """Data and hardware, from which a plan follows."""

    exchanges: int
    """Exchanges to learn."""
    tokens: int
    """Source and target tokens of an epoch."""
    validation_exchanges: int
    has_metrics: bool
    """True if chrF can be computed."""
    are_pictures: bool = False
    """True if most replies are pictures."""
    are_tunes: bool = False
    """True if most replies are tunes."""
    is_prose: bool = False
    """True if the exchanges are passages of prose and their continuations."""
    on_gpu: bool = False
    hardware: str = "this machine"
    """Its name for people: 2 cores, or the name of a GPU."""


def are(pattern: re.Pattern[str], replies: Sequence[str]) -> bool:
    """True if most of the replies are of the pattern and nothing else."""
    return sum(pattern.fullmatch(reply) is not None for reply in replies) > len(replies) / 2


def facts_of(data: PreparedData, accelerator: "Accelerator") -> Facts:
    """The facts of prepared data and of the processes of a run."""
    exchanges, device = data.train_exchanges, accelerator.device
    hardware = f"{torch.get_num_threads()} cores" if torch.get_num_threads() > 1 else "1 core"
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    if accelerator.num_processes > 1:
        hardware = f"{accelerator.num_processes} processes with {hardware} each"
    return Facts(
        exchanges=exchanges.num_alone,
        tokens=exchanges.tokens_per_epoch,
        validation_exchanges=len(data.eval_exchanges),
        has_metrics=has_metrics(),
        are_pictures=are(PICTURE, exchanges.rows["reply"][:REPLIES_TRIED]),
        are_tunes=are(TUNE, exchanges.rows["reply"][:REPLIES_TRIED]),
        is_prose=is_prose(data.training),
        on_gpu=device.type == "cuda",
        hardware=hardware,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Settings, by the names of their flags."""

    size: str
    dropout: float
    dropout_until: float
    bpe_dropout: float
    tokens_per_step: int
    max_steps: int
    warmup_steps: int
    learning_rate: float
    ema_decay: float
    eval_steps: int
    metric_for_best_model: str
    temperature: float
    top_p: float


def plan(facts: Facts, *, max_steps: int | None = None, smaller: int = 0, num_evaluations: int = EVALUATIONS) -> Plan:
    """
    The settings that suit the facts.

    `max_steps` replaces the table's number of steps, and settings that depend on it follow. `smaller` takes the model
    from so many lines further up in the table, if the time is too short for the larger model.
    """
    number = next(number for number, row in enumerate(TABLE) if facts.tokens <= row.tokens)
    row = TABLE[number]
    size, tokens_per_step = TABLE[max(0, number - smaller)].size, row.tokens_per_step
    if facts.on_gpu and facts.tokens > TABLE[4].tokens:
        size, tokens_per_step = LARGER[size], TOKENS_OF_A_GPU * tokens_per_step
    steps = max_steps or steps_for(facts.tokens)
    return Plan(
        size=size,
        dropout=min(row.dropout, PICTURES_DROPOUT[0]) if facts.are_pictures else row.dropout,
        dropout_until=PICTURES_DROPOUT[1] if facts.are_pictures else 1.0,
        bpe_dropout=row.bpe_dropout,
        tokens_per_step=tokens_per_step,
        max_steps=steps,
        warmup_steps=min(LONGEST_WARMUP, max(1, steps // STEPS_PER_WARMUP_STEP)),
        learning_rate=5e-4 if size == "base" else 1e-3,
        # Averages about the last fifth of the steps.
        ema_decay=round(max(0.9, 1 - 5 / steps), 4),
        eval_steps=max(1, math.ceil(steps / num_evaluations)),
        metric_for_best_model=metric_for(facts),
        temperature=DRAWN_PROSE[0] if facts.is_prose else 0.0,
        top_p=DRAWN_PROSE[1] if facts.is_prose else 1.0,
    )


def metric_for(facts: Facts) -> str:
    """What chooses the published model."""
    # By heart a model is surer of what it has not seen, too, and its errors there cost more.
    if facts.validation_exchanges < ENOUGH_VALIDATION or facts.are_pictures:
        return "last"
    if facts.is_prose:
        # Prose has many continuations, of which the reference is one: only its likelihood says something.
        return "loss"
    return "score" if facts.has_metrics else "last"


def steps_for(tokens: int) -> int:
    """The table's number of steps, interpolated by the logarithm of the tokens and rounded to hundreds."""
    for above, below in itertools.pairwise(TABLE):
        if tokens <= above.tokens:
            return above.steps
        if tokens < below.tokens < math.inf:
            share = math.log(tokens / above.tokens) / math.log(below.tokens / above.tokens)
            return 100 * round((above.steps + share * (below.steps - above.steps)) / 100)
    return TABLE[-1].steps


def planned(
    settings: TrainingSettings,
    facts: Facts,
    *,
    max_steps: int | None = None,
    smaller: int = 0,
    num_evaluations: int = EVALUATIONS,
) -> TrainingSettings:
    """The settings, with a plan for those that were not given: numbers with which a run can be repeated."""
    given, options = settings.flat(), settings.optimization
    steps = max_steps or options.max_steps
    if steps is None and options.num_train_epochs is not None:
        tokens_per_step = options.tokens_per_step or plan(facts).tokens_per_step
        steps = math.ceil(options.num_train_epochs * max(1, round(facts.tokens / tokens_per_step)))
    changes = dataclasses.asdict(plan(facts, max_steps=steps, smaller=smaller, num_evaluations=num_evaluations))
    if options.num_train_epochs is not None:
        del changes["max_steps"]
    if options.lr_scheduler_type == "noam":
        # Noam's schedule computes the rate itself.
        changes["learning_rate"] = 1.0
    if options.average_checkpoints:
        # One average is enough. Its checkpoints are of the end: in a mean over all of a run, weights count that had
        # learnt little.
        changes["ema_decay"] = 0.0
        num_steps = steps or changes["max_steps"]
        changes["save_steps"] = max(1, round(AVERAGED_SHARE * num_steps / options.average_checkpoints))
    if settings.run.early_stopping_patience is not None:
        changes |= {"metric_for_best_model": "loss", "dropout_until": 1.0}
    if options.rdrop_alpha:
        changes["dropout_until"] = 1.0
    if given["size"] is not None and "dropout" in sizes_of(given["architecture"]).get(given["size"], {}):
        del changes["dropout"]
    if given["self_attention"] in OF_SPARSE_ATTENTION["stride"]:
        changes["stride"] = root_of(max(given["max_source_tokens"], given["max_target_tokens"]))
    changes = {name: value for name, value in changes.items() if given[name] is None}
    return settings.changed(changes, where="plan")


def plan_for_minutes(
    settings: TrainingSettings, facts: Facts, measure: Callable[[TrainingSettings], Pace | None]
) -> tuple[TrainingSettings, Pace]:
    """
    The settings planned for `--minutes`, with as many steps as fit into them, and the pace that `measure` gave.

    If fewer steps fit than the data needs, a smaller model takes more of them. Settings that were given stay.
    """
    minutes, wanted = settings.optimization.minutes, steps_for(facts.tokens)
    assert minutes is not None
    smaller, size = 0, None
    while True:
        trial = planned(settings, facts, smaller=smaller)
        if trial.model.size != size:
            size = trial.model.size
            pace = measure(trial)
            if pace is None:
                raise SettingsError(
                    "--minutes needs steps that can be measured. Leave out --torch-compile, take a smaller --size if "
                    "the steps do not fit into memory, or give --max-steps in place of --minutes."
                )
            evaluations = pace.evaluations_in(minutes, EVALUATIONS)
            if settings.run.eval_steps is not None:
                evaluations = math.ceil(pace.steps_in(minutes, 1) / settings.run.eval_steps)
            steps = pace.steps_in(minutes, evaluations)
            if steps >= wanted or size in ("tiny", settings.model.size):
                changes = {"max_steps": min(steps, MOST_REPEATS * wanted), "num_evaluations": evaluations}
                return planned(settings, facts, smaller=smaller, **changes), pace
        smaller += 1


def shortcomings(
    settings: TrainingSettings, facts: Facts, num_parameters: int, num_steps: int, minutes: float | None
) -> list[str]:
    """Why these settings can hardly teach, or take long, each reason with a setting to change."""
    options, problems = settings.optimization, []
    warmup_steps, wanted = options.warmup_steps or 0, steps_for(facts.tokens)
    if num_steps < FEW_STEPS:
        flag, amount = "max-steps", max(FEW_STEPS, wanted)
        if options.minutes is not None:
            flag, amount = "minutes", math.ceil(options.minutes * amount / num_steps)
        problems.append(
            f"{num_steps:,} steps teach little: a model first learns which words are frequent, and begins to listen "
            f"after one or two thousand steps. Take --{flag} {amount}, or leave the flag out to "
            "have the steps planned."
        )
    if options.lr_scheduler_type == "noam" and (options.learning_rate or 1) < LEAST_FACTOR:
        problems.append(
            f'For "noam", --learning-rate is a factor before the paper\'s formula, of which the paper has 1: '
            f"{options.learning_rate:g} makes the rate {1 / (options.learning_rate or 1):,.0f} times as low. Leave it "
            "out, or take another --lr-scheduler-type."
        )
    if num_steps < 2 * warmup_steps:
        problems.append(
            f"The learning rate rises over {warmup_steps:,} of {num_steps:,} steps, and few steps are left at a rate "
            f"that teaches. Take --warmup-steps {max(1, num_steps // STEPS_PER_WARMUP_STEP)}, or more steps."
        )
    if SIZE.bad.severity(num_parameters / facts.tokens) == "problem":
        smallest = next(iter(sizes_of(settings.model.architecture)))
        advice = "Take more data" if settings.model.size == smallest else "Take a smaller --size, or more data"
        problems.append(
            f"{num_parameters:,} parameters learn from {facts.tokens:,} tokens, {num_parameters / facts.tokens:,.0f} "
            f"for each: the model will know them by heart and little else. {advice}."
        )
    if (
        facts.validation_exchanges
        and facts.exchanges < 20 * FEW_VALIDATION
        and facts.validation_exchanges < FEW_VALIDATION
    ):
        problems.append(
            f"{facts.validation_exchanges} of {facts.exchanges + facts.validation_exchanges} exchanges are kept for "
            "validation: the model does not learn them, and they are too few to judge it by. "
            "--validation-fraction 0 learns all of them."
        )
    if (facts.are_pictures or facts.are_tunes) and settings.model.repetition_penalty > 1:
        repeating = "pictures, whose rows" if facts.are_pictures else "tunes, whose bars"
        problems.append(
            f"Replies are {repeating} repeat, and the published model avoids what a reply already has. Take "
            "--repetition-penalty 1."
        )
    if minutes is not None and minutes > LONG_MINUTES and options.minutes is None:
        problems.append(
            f"This takes about {minutes / 60:.1f} hours. --minutes {LONG_MINUTES} plans for an hour; Ctrl-C stops at "
            "any time, and --resume continues."
        )
    return problems
