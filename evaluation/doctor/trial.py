"""A model tried on exchanges: its scores and its replies."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from chatformer.chat.engines import TransformersEngine
from chatformer.configuration.evaluation import EvaluationSettings
from chatformer.data.exchanges import EncodedExchanges
from chatformer.evaluation.figures import Evaluation, figures_of
from chatformer.evaluation.scoring import Outcome, length_batches, outcome_of
from chatformer.storage.bars import datasets_bars

from .findings import Below, Check

FEW_QUESTIONS = 10
"""Number of different questions under which replies cannot be judged."""

ENOUGH_QUESTIONS = Check(
    name="trial",
    bad=Below(hint=FEW_QUESTIONS),
    title="Too few questions to try it on",
    what_to_do="Give more conversations with --data.",
)


@dataclass(frozen=True)
class Trial:
    """The scores, replies and figures of a model for some exchanges."""

    exchanges: EncodedExchanges
    outcome: Outcome
    evaluation: Evaluation


def try_out(
    model: Any, tokenizer: Any, exchanges: EncodedExchanges, *, training_replies: Collection[str] | None = None
) -> Trial:
    """Score the exchanges, and reply to them greedily."""
    outcome = outcome_of(
        TransformersEngine(model, tokenizer), tokenizer, exchanges, max_replies=None, show_progress=True
    )
    options = {} if training_replies is None else {"training_replies": set(training_replies)}
    return Trial(exchanges, outcome, figures_of(exchanges, outcome, range(len(exchanges)), **options))


def loss_on(model: Any, exchanges: EncodedExchanges) -> float:
    """The mean negative log-likelihood of a target token, in nats."""
    engine = TransformersEngine(model)
    nats = sum(
        sum(engine.score([exchanges.source(i) for i in batch], [exchanges.target(i) for i in batch]))
        for batch in length_batches(exchanges, len(exchanges), EvaluationSettings.batch_tokens)
    )
    return nats / int(exchanges.target_lengths.sum())


@datasets_bars(shown=False)
def different_questions(exchanges: EncodedExchanges, count: int) -> EncodedExchanges:
    """At most `count` exchanges from all over the data, no two with the same source."""
    first = {exchanges.source(index).tobytes(): index for index in reversed(range(len(exchanges)))}
    indices = np.array(sorted(first.values()))
    if len(indices) > count:
        indices = indices[np.linspace(0, len(indices) - 1, count).round().astype(int)]
    return EncodedExchanges(exchanges.rows.select(indices).flatten_indices(keep_in_memory=True))
