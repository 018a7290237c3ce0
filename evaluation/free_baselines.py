"""Whether a baseline that costs nothing is better than a model, in a sentence."""

from dataclasses import dataclass

from .scoring import Comparison, Evaluation, ReplyFigures

NOTICEABLE_POINTS = 0.5
"""Points of exact match and chrF from which a difference counts."""

FEW_EXCHANGES = 10
"""Exchanges under which nothing is said of a group."""

PROCEDURES = {
    "nearest question": "Giving the answer of the nearest training question",
    "most frequent answer": "Always giving the most frequent answer",
}


@dataclass(frozen=True)
class BetterBaseline:
    """Baseline that is better than the model on a group of exchanges."""

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
    The baselines that beat the model in exact match or chrF, and in neither are worse, on each group.

    Nothing where chrF is not available. Replies were given to the first `num_replies` exchanges.
    """
    found = []
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
                found.append(BetterBaseline(baseline, group, num_exchanges, model, figures))
    return found


def sentences_about(better: list[BetterBaseline]) -> list[str]:
    """A sentence about each baseline that is better."""
    sentences = []
    for baseline in dict.fromkeys(each.baseline for each in better):
        groups = [str(each) for each in better if each.baseline == baseline]
        sentences.append(f"{PROCEDURES[baseline]} is better than the model {', and '.join(groups)}.")
    return sentences


WHAT_TO_DO = (
    "Give it more data for each topic and more wordings of each question, or search over the questions instead of "
    "using a model."
)
