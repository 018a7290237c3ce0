"""Baselines that cost nothing, and whether one of them is better than a model."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from chatformer.configuration.evaluation import EvaluationSettings
from chatformer.data.exchanges import EncodedExchanges

from .figures import Evaluation, ReplyFigures, figures_of, has_metrics, reply_figures
from .scoring import Outcome

PROCEDURES = {
    "nearest question": "Giving the answer of the nearest training question",
    "most frequent answer": "Always giving the most frequent answer",
}
"""What each baseline does."""


def nearest_answers(questions: Sequence[str], training: Sequence[tuple[str, str]]) -> list[str]:
    """
    For each question the answer of the training's most similar question, the first of equally similar ones.

    The similarity is the cosine of the TF-IDF weights of single characters and pairs, within words. Needs the extra
    `chatformer[metrics]`.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 2), sublinear_tf=True)
    training_weights = vectorizer.fit_transform([question for question, _ in training]).T.tocsr()
    answers = []
    # As many at once as their similarities fit into memory.
    rows = max(1, 10_000_000 // len(training))
    for start in range(0, len(questions), rows):
        similarities = vectorizer.transform(questions[start : start + rows]) @ training_weights
        answers += [training[int(index)][1] for index in np.asarray(similarities.argmax(axis=1)).ravel()]
    return answers


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The figures of a model and of baselines on all exchanges, on those with a seen answer, and on the others."""

    groups: dict[str, list[int]]
    """The indices of the exchanges by group: all, seen and unseen, or all alone."""
    model: dict[str, Evaluation | None]
    """The figures of the model by group; None if a group is empty."""
    baselines: dict[str, dict[str, ReplyFigures]]
    """The figures of each baseline's replies, by group."""
    baseline_replies: dict[str, list[str]]
    """The replies of each baseline to the exchanges that the model replied to."""

    @property
    def has_fewer_replies(self) -> bool:
        """True if the model replied to some of the exchanges, so that their figures are not those of all."""
        everything = self.model.get("all")
        return everything is not None and 0 < everything.num_replies < len(self.groups["all"])


def compare(
    exchanges: EncodedExchanges,
    outcome: Outcome,
    training: Sequence[tuple[str, str]] | None,
    *,
    bleu_tokenize: str = EvaluationSettings.bleu_tokenize,
) -> Comparison:
    """
    The figures of an outcome, by group and with baselines if `training`, its questions and answers, is given.

    An answer is seen if it equals an answer of the training word for word. The baselines read the last turn of a
    history alone: one gives the answer of the nearest training question, the other the most frequent answer.
    """
    indices = list(range(len(exchanges)))
    groups = {"all": indices}
    baseline_replies: dict[str, list[str]] = {}
    options: dict[str, Any] = {"bleu_tokenize": bleu_tokenize}
    if training is not None:
        answers = Counter(answer for _, answer in training)
        groups["seen"] = [index for index in indices if exchanges.replies[index] in answers]
        groups["unseen"] = [index for index in indices if exchanges.replies[index] not in answers]
        options["training_replies"] = answers.keys()
        questions = [history[-1]["content"] for history in exchanges.histories[: len(outcome.replies)]]
        if has_metrics():
            baseline_replies["nearest question"] = nearest_answers(questions, training)
        baseline_replies["most frequent answer"] = [answers.most_common(1)[0][0]] * len(questions)

    def baseline_figures(replies: list[str], group: list[int]) -> ReplyFigures:
        answered_indices = [index for index in group if index < len(replies)]
        return reply_figures(
            [replies[index] for index in answered_indices],
            [exchanges.replies[index] for index in answered_indices],
            **options,
        )

    return Comparison(
        groups=groups,
        model={
            name: figures_of(exchanges, outcome, group, **options) if group else None for name, group in groups.items()
        },
        baselines={
            baseline: {name: baseline_figures(replies, group) for name, group in groups.items()}
            for baseline, replies in baseline_replies.items()
        },
        baseline_replies=baseline_replies,
    )


NOTICEABLE_POINTS = 0.5
"""Difference of exact match or chrF, in points, from which it counts."""

FEW_EXCHANGES = 10
"""Number of exchanges under which a group is not judged."""

WHAT_TO_DO = (
    "Give it more data for each topic and more wordings of each question, put models of several seeds together by "
    "`chatformer ensemble`, or search over the questions instead of using a model."
)


@dataclasses.dataclass(frozen=True)
class BetterBaseline:
    """A baseline that is better than the model on a group of exchanges."""

    baseline: str
    group: str
    num_exchanges: int
    model: Evaluation
    figures: ReplyFigures

    def __str__(self) -> str:
        group = f"all {self.num_exchanges:,}" if self.group == "all" else f"the {self.num_exchanges:,} {self.group}"
        return (
            f"on {group} exchanges (exact match {self.figures.exact_match:.1f}% instead of "
            f"{self.model.exact_match:.1f}%, chrF {self.figures.chrf:.1f} instead of {self.model.chrf:.1f})"
        )


def better_baselines(comparison: Comparison, num_replies: int) -> list[BetterBaseline]:
    """
    The baselines that are better than the model in exact match or chrF on a group, and worse in neither.

    None if chrF is not available. The model replied to the first `num_replies` exchanges.
    """
    better = []
    for baseline, by_group in comparison.baselines.items():
        for group, figures in by_group.items():
            num_exchanges = sum(index < num_replies for index in comparison.groups[group])
            model = comparison.model[group]
            is_all = group != "all" and comparison.groups[group] == comparison.groups["all"]
            if model is None or is_all or num_exchanges < FEW_EXCHANGES:
                continue
            if figures.chrf is None or model.chrf is None or figures.exact_match is None or model.exact_match is None:
                continue
            leads = figures.exact_match - model.exact_match, figures.chrf - model.chrf
            if max(leads) >= NOTICEABLE_POINTS and min(leads) > -NOTICEABLE_POINTS:
                better.append(BetterBaseline(baseline, group, num_exchanges, model, figures))
    return better


def sentences_about(better: list[BetterBaseline]) -> list[str]:
    """A sentence about each baseline that is better."""
    sentences = []
    for baseline in dict.fromkeys(each.baseline for each in better):
        groups = [str(each) for each in better if each.baseline == baseline]
        sentences.append(f"{PROCEDURES[baseline]} is better than the model {', and '.join(groups)}.")
    return sentences
