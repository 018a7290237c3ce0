"""The doctor's check whether a baseline that costs nothing is better than a model."""

from chatformer.evaluation.free_baselines import WHAT_TO_DO, better_baselines, sentences_about
from chatformer.evaluation.scoring import Comparison

from .findings import Finding, well


def check_baselines(comparison: Comparison, num_replies: int) -> list[Finding]:
    """Find a model that is not worth its training, as something free replies better."""
    if not any(figures["all"].chrf is not None for figures in comparison.baselines.values()):
        return []
    better = better_baselines(comparison, num_replies)
    if not better:
        return well("baselines", "It is better than the free baselines")
    is_worthless = any(each.baseline == "most frequent answer" and each.group == "all" for each in better)
    return [
        Finding(
            check="baselines",
            severity="problem" if is_worthless else "hint",
            title="A free baseline is better",
            found=" ".join(sentences_about(better)),
            what_to_do=WHAT_TO_DO,
        )
    ]
