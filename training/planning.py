"""
The plan of a training: what no flag and no recipe says follows from the data as it was read, and from the hardware.

`plan` is a pure function, a table and a few lines of arithmetic; docs/planning.md says where its numbers come from.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

from chatformer.configuration.sizes import SIZES
from chatformer.evaluation.doctor.size import SIZE

from .pace import Pace
from .settings import SettingsError, TrainingSettings

FEW_STEPS = 1000
"""Under so many steps a model learns which words are frequent, and hardly anything of what follows from a question."""

STEPS_PER_WARMUP_STEP = 5
"""A warm-up longer than a fifth of the steps leaves too few of them at a rate that teaches."""

LONGEST_WARMUP = 1000

ENOUGH_VALIDATION = 100
"""Exchanges under which the validation's figures say more about chance than about the model."""

FEW_VALIDATION = 20

LONG_MINUTES = 60

EVALUATIONS = 5
"""Evaluations of a run."""

MOST_REPEATS = 4
"""However many minutes there are, more than so many times the steps that the data needs teach nothing more."""


class Row(NamedTuple):
    """One line of the table: what fits data of up to `tokens` source and target tokens."""

    tokens: float
    size: str
    tokens_per_step: int
    steps: int
    dropout: float
    bpe_dropout: float


TABLE = (
    # Short exchanges have about 15 tokens: 100, 300, 1,000, 3,000 and 10,000 of them, then whole corpora.
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
"""What a GPU trains in the time that a CPU takes for a size."""

TOKENS_OF_A_GPU = 4
"""A GPU takes so many times the tokens in a step, where there are enough of them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What a plan follows from."""

    exchanges: int
    """Exchanges to learn."""
    tokens: int
    """Source and target tokens of all of them: one epoch."""
    validation_exchanges: int
    has_metrics: bool
    """True if chrF can be computed."""
    on_gpu: bool = False
    hardware: str = "this machine"
    """As people call it: 2 cores, or the name of a GPU."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Settings by the names that their flags have."""

    size: str
    dropout: float
    bpe_dropout: float
    tokens_per_step: int
    max_steps: int
    warmup_steps: int
    learning_rate: float
    ema_decay: float
    eval_steps: int
    metric_for_best_model: str


def plan(facts: Facts, *, max_steps: int | None = None, smaller: int = 0) -> Plan:
    """
    The settings that fit the data.

    With `max_steps` the number of steps is given, and what depends on it follows. `smaller` takes the model of so many
    lines further up in the table, for a time that is too short for its own.
    """
    number = next(number for number, row in enumerate(TABLE) if facts.tokens <= row.tokens)
    row = TABLE[number]
    size, tokens_per_step = TABLE[max(0, number - smaller)].size, row.tokens_per_step
    if facts.on_gpu and facts.tokens > TABLE[4].tokens:
        size, tokens_per_step = LARGER[size], TOKENS_OF_A_GPU * tokens_per_step
    steps = max_steps or steps_for(facts.tokens)
    return Plan(
        size=size,
        dropout=row.dropout,
        bpe_dropout=row.bpe_dropout,
        tokens_per_step=tokens_per_step,
        max_steps=steps,
        warmup_steps=min(LONGEST_WARMUP, max(1, steps // STEPS_PER_WARMUP_STEP)),
        learning_rate=5e-4 if size == "base" else 1e-3,
        # The mean of about the last fifth of the steps.
        ema_decay=round(max(0.9, 1 - 5 / steps), 4),
        eval_steps=max(1, math.ceil(steps / EVALUATIONS)),
        metric_for_best_model="score"
        if facts.validation_exchanges >= ENOUGH_VALIDATION and facts.has_metrics
        else "last",
    )


def steps_for(tokens: int) -> int:
    """The table's number of steps, between two lines in proportion to the logarithm of the tokens, in hundreds."""
    for above, below in itertools.pairwise(TABLE):
        if tokens <= above.tokens:
            return above.steps
        if tokens < below.tokens < math.inf:
            share = math.log(tokens / above.tokens) / math.log(below.tokens / above.tokens)
            return 100 * round((above.steps + share * (below.steps - above.steps)) / 100)
    return TABLE[-1].steps


def planned(
    settings: TrainingSettings, facts: Facts, *, max_steps: int | None = None, smaller: int = 0
) -> TrainingSettings:
    """The settings with what they leave open planned: plain numbers, which a run is repeated and resumed with."""
    given, options = settings.flat(), settings.optimization
    steps = max_steps or options.max_steps
    if steps is None and options.num_train_epochs is not None:
        tokens_per_step = options.tokens_per_step or plan(facts).tokens_per_step
        steps = math.ceil(options.num_train_epochs * max(1, round(facts.tokens / tokens_per_step)))
    changes = dataclasses.asdict(plan(facts, max_steps=steps, smaller=smaller))
    if options.num_train_epochs is not None:
        del changes["max_steps"]
    if options.lr_scheduler_type == "noam":
        # The paper's rate as it is.
        changes["learning_rate"] = 1.0
    if options.average_checkpoints:
        # One average is enough.
        changes["ema_decay"] = 0.0
    if settings.run.early_stopping_patience is not None:
        changes["metric_for_best_model"] = "loss"
    if given["size"] is not None and "dropout" in SIZES.get(given["size"], {}):
        del changes["dropout"]
    changes = {name: value for name, value in changes.items() if given[name] is None}
    return settings.changed(changes, where="plan")


def plan_for_minutes(
    settings: TrainingSettings, facts: Facts, measure: Callable[[TrainingSettings], Pace | None]
) -> TrainingSettings:
    """
    The settings planned for `--minutes`: as many steps as `measure` says that there is time for.

    Where there is time for fewer than the data needs, a smaller model takes more of them; what is given stays.
    """
    minutes, wanted = settings.optimization.minutes, steps_for(facts.tokens)
    assert minutes is not None
    result = settings
    for smaller in range(len(TABLE)):
        result = planned(settings, facts, smaller=smaller)
        if smaller and result.model.size == planned(settings, facts, smaller=smaller - 1).model.size:
            continue
        pace = measure(result)
        if pace is None:
            raise SettingsError(
                "--minutes needs steps that can be measured: leave out --torch-compile, or give --max-steps."
            )
        steps = pace.steps_in(minutes, EVALUATIONS)
        result = planned(settings, facts, max_steps=min(steps, MOST_REPEATS * wanted), smaller=smaller)
        if steps >= wanted or result.model.size in ("tiny", settings.model.size):
            break
    return result


def overview(
    settings: TrainingSettings, facts: Facts, num_parameters: int, num_steps: int, minutes: float | None
) -> str:
    """What is about to run, in one sentence."""
    time = "" if minutes is None else f", about {minutes:.0f} minutes" if minutes >= 1.5 else ", about a minute"
    size = settings.model.size if planned_shape(settings) else "a model"
    hardware = facts.hardware
    return (
        f"{facts.exchanges:,} exchanges to learn, {facts.validation_exchanges:,} to validate on: {size} "
        f"({num_parameters / 1e6:.1f} million parameters), {num_steps:,} steps of "
        f"{settings.optimization.tokens_per_step:,} tokens{time} on {hardware}."
    )


def planned_shape(settings: TrainingSettings) -> bool:
    """True if the model has the shape of its named size."""
    return all(
        getattr(settings.model, name) is None
        for name in ("d_model", "d_ff", "num_heads", "encoder_layers", "decoder_layers")
    )


def shortcomings(
    settings: TrainingSettings, facts: Facts, num_parameters: int, num_steps: int, minutes: float | None
) -> list[str]:
    """Why these settings can hardly teach, or take long, each with what to change; empty where nothing is wrong."""
    options, found = settings.optimization, []
    warmup_steps, wanted = options.warmup_steps or 0, steps_for(facts.tokens)
    if num_steps < FEW_STEPS:
        found.append(
            f"{num_steps:,} steps teach little: a model first learns which words are frequent, and begins to listen "
            f"after one or two thousand steps. Take --max-steps {max(FEW_STEPS, wanted)}, or leave the number of steps "
            "to the plan."
        )
    if num_steps < 2 * warmup_steps:
        found.append(
            f"The learning rate rises over {warmup_steps:,} of {num_steps:,} steps, and few are left at a rate that "
            f"teaches. Take --warmup-steps {max(1, num_steps // STEPS_PER_WARMUP_STEP)}, or more steps."
        )
    if SIZE.bad.severity(num_parameters / facts.tokens) == "problem":
        found.append(
            f"{num_parameters:,} parameters learn from {facts.tokens:,} tokens, {num_parameters / facts.tokens:,.0f} "
            "for each: it will know them by heart and little else. Take a smaller --size, or more data."
        )
    if (
        facts.validation_exchanges
        and facts.exchanges < 20 * FEW_VALIDATION
        and facts.validation_exchanges < FEW_VALIDATION
    ):
        found.append(
            f"{facts.validation_exchanges} of {facts.exchanges + facts.validation_exchanges} exchanges are kept to "
            "validate on, which the model does not learn, and which are too few to judge it by. "
            "--validation-fraction 0 learns them all."
        )
    if minutes is not None and minutes > LONG_MINUTES and options.minutes is None:
        found.append(
            f"This takes about {minutes / 60:.1f} hours. --minutes {LONG_MINUTES} plans for an hour; Ctrl-C stops at "
            "any time, and --resume goes on."
        )
    return found
