"""
The plan of a training: what no flag and no recipe says follows from the data as it was read, and from the hardware.

`plan` is a pure function, a table and a few lines of arithmetic; docs/planning.md says where its numbers come from.
"""

import dataclasses
import math
from typing import NamedTuple

from .settings import SettingsError, TrainingSettings

FEW_STEPS = 1000
"""Under so many steps a model learns which words are frequent, and hardly anything of what follows from a question."""

STEPS_PER_WARMUP_STEP = 5
"""A warm-up longer than a fifth of the steps leaves too few of them at a rate that teaches."""

LONGEST_WARMUP = 1000

ENOUGH_VALIDATION = 100
"""Exchanges under which the validation's figures say more about chance than about the model."""

LONG_MINUTES = 60


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
    Row(8e3, "tiny", 300, 2500, 0.1, 0.1),
    Row(2.5e4, "mini", 400, 2500, 0.1, 0.1),
    Row(8e4, "mini", 500, 3500, 0.1, 0.1),
    Row(4e5, "mini", 500, 6000, 0.1, 0.1),
    Row(2e6, "mini", 2000, 10_000, 0.3, 0.0),
    Row(2e7, "small", 4000, 12_000, 0.1, 0.0),
    Row(math.inf, "small", 8000, 20_000, 0.1, 0.0),
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
        eval_steps=max(1, math.ceil(steps / 5)),
        metric_for_best_model="score" if facts.validation_exchanges >= ENOUGH_VALIDATION and facts.has_metrics else "last",
    )


def steps_for(tokens: int) -> int:
    """The table's number of steps, between two lines in proportion to the logarithm of the tokens, in hundreds."""
    for above, below in zip(TABLE, TABLE[1:], strict=False):
        if tokens <= above.tokens:
            return above.steps
        if tokens < below.tokens < math.inf:
            share = math.log(tokens / above.tokens) / math.log(below.tokens / above.tokens)
            return round(above.steps + share * (below.steps - above.steps), -2)
    return TABLE[-1].steps
