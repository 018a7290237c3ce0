"""
How good replies are that are tunes: whether they can be read, whether their bars are as long as the metre says, whether
they are what the wish asks for, and how much of them is copied. Each figure is beside that of the nearest wish's tune
and that of real tunes, which nobody has learnt.
"""

import dataclasses
import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from chatformer.data.exchanges import EncodedExchanges
from chatformer.data.wishes import Headers, asked_in
from chatformer.tunes import BAR_LINE, TUNE, Tune, length_of, steps_of, tune_of

from .figures import has_metrics
from .scoring import Outcome

FEWEST_OF_A_RHYTHM = 20
"""Tunes that a classifier of rhythms learns one from."""

ROWS = {
    "parsed": "can be read, %",
    "complete_bars": "bars as long as the metre, %",
    "right_bars": "the same, with upbeats, %",
    "metre_obeyed": "the metre asked for, %",
    "key_obeyed": "the key asked for, %",
    "ends_on_tonic": "ends on the tonic, %",
    "rhythm_recognised": "rhythm recognised, %",
    "longest_copy": "longest copy, % of the tune",
    "other_steps": "notes on other steps, %",
}
"""The figures in the order of the table."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuneFigures:
    """The figures of tunes, in percent; None if nothing can be said."""

    parsed: float
    """Share of the replies that are a tune, to its last bar line, and nothing else."""
    complete_bars: float
    """Share of the bars that are exactly as long as the metre asked for says. A reply that cannot be read has as many
    bars as the true tune, and none is right."""
    right_bars: float
    """The same, and a shorter bar is right where a part of the tune begins or ends: an upbeat, and what it takes from
    the last bar."""
    metre_obeyed: float | None
    """Share of the wishes with a metre whose reply has it."""
    key_obeyed: float | None
    """Share of the wishes with a key whose reply has it."""
    ends_on_tonic: float | None
    """Share of the tunes whose last note is the first of their scale: a key that is heard."""
    rhythm_recognised: float | None
    """Share of the wishes for a rhythm, such as a jig, which a logistic regression recognises in the reply. It was
    trained on the real tunes of the training."""
    longest_copy: float | None
    """The longest run of beats that one tune of the training has too, as a share of the reply; the mean."""
    other_steps: float | None
    """How many notes would have to be on another step of the scale for the steps to be as frequent as in real tunes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tunes:
    """What is measured where replies are tunes."""

    num_tunes: int
    bits_per_character: float
    figures: dict[str, TuneFigures]
    """Of the model, of the tunes of the nearest wishes, and of the real tunes."""


def tunes_of(
    exchanges: EncodedExchanges,
    outcome: Outcome,
    *,
    training: Sequence[tuple[str, str]] = (),
    nearest: Sequence[str] = (),
) -> Tunes | None:
    """
    The figures of the replies that should be tunes; None if there are none.

    `training` are the wishes and tunes of the training, and `nearest` the tunes of each wish's most similar wish there,
    if they are known.
    """
    indices = [index for index, reply in enumerate(exchanges.replies) if TUNE.fullmatch(reply)]
    answered = [index for index in indices if index < len(outcome.replies)]
    if not answered:
        return None
    wishes = [asked_in(exchanges.histories[index][-1]["content"]) for index in answered]
    real = [exchanges.replies[index] for index in answered]
    learnt = [(wish, tune) for wish, tune in training if TUNE.fullmatch(tune)]
    judge = RhythmJudge.trained(learnt)
    tunes = {"model": [outcome.replies[index] for index in answered]}
    if nearest:
        tunes["nearest wish"] = [nearest[index] for index in answered]
    tunes["real tunes"] = real
    known = "\n".join(f" {beats_in(tune)} " for tune in dict.fromkeys(tune for _, tune in learnt))
    num_characters = sum(len(exchanges.replies[index]) for index in indices)
    return Tunes(
        num_tunes=len(indices),
        bits_per_character=float(outcome.nats[indices].sum()) / math.log(2) / num_characters,
        figures={
            name: figures_of_tunes(texts, wishes, real, known=known, judge=judge) for name, texts in tunes.items()
        },
    )


def figures_of_tunes(
    texts: Sequence[str],
    wishes: Sequence[Headers],
    real: Sequence[str],
    *,
    known: str = "",
    judge: "RhythmJudge | None" = None,
) -> TuneFigures:
    """The figures of replies to wishes; `known` are the beats of the training's tunes, a line each."""
    tunes = [complete_tune(text) for text in texts]
    num_bars = num_complete = num_right = 0
    for tune, wish, reference in zip(tunes, wishes, real, strict=True):
        if tune is None:
            truth = tune_of(reference)
            num_bars += sum(1 for _ in truth.bars()) if truth else 0
            continue
        asked = tune._replace(metre=wish.metre or tune.metre)
        for bar in tune.bars():
            length = length_of(bar.notes)
            num_bars += 1
            num_complete += length == asked.bar_length
            num_right += length == asked.bar_length or (length < asked.bar_length and bar.may_be_short)
    read, pairs = [tune for tune in tunes if tune is not None], list(zip(tunes, wishes, strict=True))
    return TuneFigures(
        parsed=100 * len(read) / len(texts),
        complete_bars=100 * num_complete / max(1, num_bars),
        right_bars=100 * num_right / max(1, num_bars),
        metre_obeyed=share([tune is not None and tune.metre == wish.metre for tune, wish in pairs if wish.metre]),
        key_obeyed=share([tune is not None and tune.key == wish.key for tune, wish in pairs if wish.key]),
        ends_on_tonic=share([steps_of(tune)[-1:] == [0] for tune in read]),
        rhythm_recognised=None if judge is None else judge.share_recognised(texts, wishes),
        longest_copy=mean([longest_copy(text, known) for text in texts]) if known else None,
        other_steps=other_steps(read, [tune for tune in map(tune_of, real) if tune is not None]),
    )


def complete_tune(text: str) -> Tune | None:
    """The parts of a text that is a tune to its last bar line; None if it is none."""
    tune = tune_of(text)
    return tune if tune is not None and re.fullmatch(BAR_LINE, tune.body.split()[-1]) and list(tune.bars()) else None


def share(are_right: Sequence[bool]) -> float | None:
    return 100 * sum(are_right) / len(are_right) if are_right else None


def mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def beats_in(tune: str) -> str:
    """The notes of a tune's text, those of a beat together, without bar lines and head."""
    return " ".join(word for word in tune.split()[1:] if not re.fullmatch(BAR_LINE, word))


def longest_copy(text: str, known: str) -> float:
    """The longest run of a tune's beats that a line of `known` has too, in percent of all of its beats."""
    beats = beats_in(text).split()
    longest = 0
    for start in range(len(beats)):
        while start + longest < len(beats) and f" {' '.join(beats[start : start + longest + 1])} " in known:
            longest += 1
    return 100 * longest / len(beats) if beats else 0.0


def other_steps(tunes: Sequence[Tune], others: Sequence[Tune]) -> float | None:
    """Half the difference between how frequent each step of the scale is in tunes and in others, in percent."""
    shares = []
    for each in (tunes, others):
        counts = Counter(step for tune in each for step in steps_of(tune))
        total = sum(counts.values())
        if not total:
            return None
        shares.append(np.array([counts[step] / total for step in range(12)]))
    return 50 * float(np.abs(shares[0] - shares[1]).sum())


class RhythmJudge:
    """A logistic regression that tells the rhythm of a tune from its metre and its notes."""

    def __init__(self, classifier: Any, rhythms: frozenset[str]):
        self.classifier = classifier
        self.rhythms = rhythms
        """Those that it knows."""

    @classmethod
    def trained(cls, learnt: Sequence[tuple[str, str]]) -> "RhythmJudge | None":
        """A judge that has learnt from wishes and their tunes; None without two rhythms, or without scikit-learn."""
        named = {tune: rhythm for wish, tune in learnt if (rhythm := asked_in(wish).rhythm)}
        counts = Counter(named.values())
        rhythms = frozenset(rhythm for rhythm, count in counts.items() if count >= FEWEST_OF_A_RHYTHM)
        if len(rhythms) < 2 or not has_metrics():
            return None
        from sklearn.feature_extraction.text import CountVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import MaxAbsScaler

        chosen = [(tune, rhythm) for tune, rhythm in named.items() if rhythm in rhythms]
        classifier = make_pipeline(
            CountVectorizer(analyzer=features_of, min_df=3),
            MaxAbsScaler(),
            LogisticRegression(max_iter=500, class_weight="balanced"),
        )
        classifier.fit([tune for tune, _ in chosen], [rhythm for _, rhythm in chosen])
        return cls(classifier, rhythms)

    def share_recognised(self, texts: Sequence[str], wishes: Sequence[Headers]) -> float | None:
        """The share of wishes for a rhythm that it recognises in the text, in percent."""
        judged = [(text, wish.rhythm) for text, wish in zip(texts, wishes, strict=True) if wish.rhythm in self.rhythms]
        if not judged:
            return None
        heard = self.classifier.predict([text for text, _ in judged])
        return share([str(one) == rhythm for one, (_, rhythm) in zip(heard, judged, strict=True)])


def features_of(text: str) -> list[str]:
    """What a rhythm is told by: the metre, and the lengths of the notes of each beat and of two beats in a row."""
    shapes = [re.sub(r"[A-Ga-gz][,']*", "n", re.sub("[_^=]", "", beat)) for beat in beats_in(text).split()]
    return [
        text.partition("]")[0],
        *shapes,
        *(f"{one} {other}" for one, other in itertools.pairwise(shapes)),
    ]


def tunes_table(tunes: Tunes) -> Table:
    """The figures for the terminal."""
    grid = Table(title=f"{tunes.num_tunes} tunes", title_justify="left")
    grid.add_column("")
    for name in tunes.figures:
        grid.add_column(name, justify="right", max_width=8)
    grid.add_row("bits per character", f"{tunes.bits_per_character:.3f}")
    for field, title in ROWS.items():
        values = [getattr(figures, field) for figures in tunes.figures.values()]
        if any(value is not None for value in values):
            grid.add_row(title, *("" if value is None else f"{value:.1f}" for value in values))
    return grid
