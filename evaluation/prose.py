"""
The figures of prose, each next to the same figure of real text.

No reference says whether a continuation is right, so these compare many of them with as many real ones: how varied they
are, how much they repeat, how much they copy, and how well they are told apart from real ones.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence, Set

import numpy as np
from rich.table import Table

from chatformer.data.exchanges import EncodedExchanges

from .figures import Evaluation, distinct, has_metrics
from .scoring import Outcome

NUM_SELF_BLEU = 100
"""Texts of self-BLEU, of which each is compared with all others."""
REPEATED_LENGTH, COPIED_LENGTH = 4, 8
"""Words of a run that a text repeats, and of one that it copies."""
FEWEST_TEXTS = 10
"""With fewer texts they cannot be told apart by what others of them have shown."""

ROWS = {
    "distinct_1": "distinct-1, %",
    "distinct_2": "distinct-2, %",
    "distinct_3": "distinct-3, %",
    "self_bleu": "self-BLEU",
    "repeated_4_grams": "repeated 4-grams, %",
    "copied_8_grams": "8-grams copied from training, %",
    "told_apart": "told apart from real text, %",
}
"""The figures of prose in the order of their table."""
TOLD_APART = (
    "told apart: by a logistic regression on characters; 50% is chance. Of real text: from that of the training."
)

Grams = Set[tuple[str, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProseFigures:
    """The figures of texts, in percent; None if there are too few texts, or a package is missing."""

    distinct_1: float | None
    """Different words over all words, split at white space (Li et al., 2016)."""
    distinct_2: float | None
    """The same for pairs of neighbouring words."""
    distinct_3: float | None
    """The same for three words in a row."""
    self_bleu: float | None
    """Mean BLEU of a text with the other ones as references (Zhu et al., 2018): the lower, the more varied."""
    repeated_4_grams: float | None
    """Share of four words in a row that their text has before."""
    copied_8_grams: float | None
    """Share of eight words in a row that the training text has."""
    told_apart: float | None
    """Share of texts that a logistic regression on runs of up to four characters, trained on others of them, assigns
    rightly to these or to real ones; 50 is chance. Of real texts: to these or to those of the training."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProseComparison:
    """The figures of a model's continuations, and of the real ones of the same prompts."""

    model: ProseFigures
    real: ProseFigures


def compare_prose(
    exchanges: EncodedExchanges, outcome: Outcome, training: Sequence[tuple[str, str]] | None
) -> ProseComparison:
    """The figures of an outcome; those that need the training text are None if its passages are not given."""
    written = outcome.replies
    real = exchanges.replies[: len(written)]
    learnt = None if training is None else grams(f"{prompt} {text}" for prompt, text in training)
    known = None
    if training is not None:
        step = max(1, len(training) // max(1, len(real)))
        known = [text for _, text in training[::step]][: len(real)]
    # The number of different words depends on that of all.
    num_words = min(sum(len(text.split()) for text in texts) for texts in (written, real))
    return ProseComparison(
        model=prose_figures(written, real, learnt, num_words=num_words),
        real=prose_figures(real, known, learnt, num_words=num_words),
    )


def prose_figures(
    texts: Sequence[str], others: Sequence[str] | None, learnt: Grams | None, *, num_words: int
) -> ProseFigures:
    """The figures of texts, told apart from `others`; the distinct runs are those of the first `num_words` words."""
    first = first_words(texts, num_words)
    return ProseFigures(
        distinct_1=distinct(first, 1),
        distinct_2=distinct(first, 2),
        distinct_3=distinct(first, 3),
        self_bleu=self_bleu(texts[:NUM_SELF_BLEU]),
        repeated_4_grams=repeated(texts),
        copied_8_grams=None if learnt is None else copied(texts, learnt),
        told_apart=None if others is None else told_apart(texts, others),
    )


def first_words(texts: Iterable[str], count: int) -> list[str]:
    """The first texts, with `count` words in all."""
    first = []
    for text in texts:
        words = text.split()[:count]
        count -= len(words)
        first.append(" ".join(words))
    return first


def runs_of(text: str, length: int) -> list[tuple[str, ...]]:
    words = text.split()
    return [tuple(words[start : start + length]) for start in range(len(words) - length + 1)]


def grams(texts: Iterable[str], length: int = COPIED_LENGTH) -> Grams:
    """The different runs of so many words in the texts."""
    return {run for text in texts for run in runs_of(text, length)}


def share_of(runs: Sequence[tuple[str, ...]], is_counted: Callable[[tuple[str, ...]], bool]) -> float | None:
    return 100 * sum(map(is_counted, runs)) / len(runs) if runs else None


def repeated(texts: Iterable[str]) -> float | None:
    """The share of runs of words that their text has before, in percent."""
    runs = [runs_of(text, REPEATED_LENGTH) for text in texts]
    total = sum(map(len, runs))
    return 100 * sum(len(each) - len(set(each)) for each in runs) / total if total else None


def copied(texts: Iterable[str], learnt: Grams) -> float | None:
    """The share of runs of words that are among those learnt, in percent."""
    return share_of([run for text in texts for run in runs_of(text, COPIED_LENGTH)], learnt.__contains__)


def self_bleu(texts: Sequence[str]) -> float | None:
    """The mean BLEU of a text with the others as references, 0 to 100; needs the extra `chatformer[metrics]`."""
    if len(texts) < 2 or not has_metrics():
        return None
    from sacrebleu.metrics import BLEU

    bleu = BLEU(effective_order=True)
    scores = [
        bleu.sentence_score(text, [*texts[:index], *texts[index + 1 :]]).score for index, text in enumerate(texts)
    ]
    return sum(scores) / len(scores)


def told_apart(texts: Sequence[str], others: Sequence[str]) -> float | None:
    """How many of both a logistic regression assigns rightly, in percent; needs the extra `chatformer[metrics]`."""
    # The lengths are not what is asked for, nor whether there is a text.
    pairs = [(one[: len(other)], other[: len(one)]) for one, other in zip(texts, others, strict=False) if one and other]
    if len(pairs) < FEWEST_TEXTS or not has_metrics():
        return None
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline

    classifier = make_pipeline(
        TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True, lowercase=False, max_features=100_000),
        LogisticRegression(C=10.0, max_iter=1000),
    )
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    both = [one for one, _ in pairs] + [other for _, other in pairs]
    scores = cross_val_score(classifier, both, np.repeat([0, 1], len(pairs)), cv=folds)
    return 100 * float(scores.mean())


def prose_table(prose: ProseComparison) -> Table:
    """The figures of what was written, next to those of real text."""
    grid = Table(title="continuations", title_justify="left")
    for title in ("", "written", "real"):
        grid.add_column(title, justify="right" if title else "left")
    for name, title in ROWS.items():
        values = getattr(prose.model, name), getattr(prose.real, name)
        if values != (None, None):
            grid.add_row(title, *("" if value is None else f"{value:.1f}" for value in values))
    return grid


def without_references(evaluation: Evaluation) -> Evaluation:
    """The evaluation without what compares a reply with one reference, which is nothing for prose."""
    return dataclasses.replace(evaluation, bleu=None, chrf=None, exact_match=None, copied_replies=None)
