"""Whether a baseline that costs nothing is better than a model."""

import dataclasses

from chatformer.evaluation.baselines import WHAT_TO_DO, Comparison, better_baselines, sentences_about

from .findings import Above, Check, Finding

BASELINES = Check(
    name="baselines",
    bad=Above(hint=0),
    good="It is better than the free baselines",
    title="A free baseline is better",
    what_to_do=WHAT_TO_DO,
)

# A model that one and the same answer beats on all exchanges is worth nothing.
WORTHLESS = dataclasses.replace(BASELINES, bad=Above(problem=0))


def check_baselines(comparison: Comparison, num_replies: int) -> list[Finding]:
    """Whether something free replies better, so that the model is not worth its training."""
    if not any(figures["all"].chrf is not None for figures in comparison.baselines.values()):
        return []
    better = better_baselines(comparison, num_replies)
    is_worthless = any(each.baseline == "most frequent answer" and each.group == "all" for each in better)
    check = WORTHLESS if is_worthless else BASELINES
    return check.findings(len(better), " ".join(sentences_about(better)))
