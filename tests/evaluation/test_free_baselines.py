import pytest

from chatformer.evaluation.doctor.baselines import check_baselines
from chatformer.evaluation.free_baselines import better_baselines, sentences_about
from chatformer.evaluation.scoring import Comparison, Evaluation, ReplyFigures

LOSS = {"loss": 1.0, "perplexity": 2.7, "bits_per_character": 1.0, "source_gain": 0.5}
NEAREST, FREQUENT = "nearest question", "most frequent answer"


def compared(model, nearest, frequent=(0, 1), groups=None):
    """Return a comparison of exact match and chrF by group."""
    groups = groups or {"all": list(range(40))}

    def figures(pairs, make, **others):
        pairs = pairs if isinstance(pairs, dict) else dict.fromkeys(groups, pairs)
        return {group: make(exact_match=exact, chrf=chrf, **others) for group, (exact, chrf) in pairs.items()}

    baselines = {NEAREST: figures(nearest, ReplyFigures), FREQUENT: figures(frequent, ReplyFigures)}
    return Comparison(groups, figures(model, Evaluation, **LOSS), baselines, {})


def better(comparison, num_replies=40):
    return [(each.baseline, each.group) for each in better_baselines(comparison, num_replies)]


@pytest.mark.parametrize(
    ("model", "nearest", "is_better"),
    [
        ((10, 30), (20, 40), True),
        ((10, 30), (10, 31), True),
        ((10, 30), (9.8, 35), True),
        ((10, 30), (10, 30), False),
        ((10, 30), (10.4, 30.4), False),
        ((10, 30), (5, 40), False),
        ((10, 30), (20, 20), False),
    ],
)
def test_better_is_what_leads_in_one_figure_and_lags_in_none(model, nearest, is_better):
    assert better(compared(model, nearest)) == [(NEAREST, "all")] * is_better


def test_groups_are_told_apart_and_none_is_told_twice():
    groups = {"all": list(range(40)), "seen": list(range(25)), "unseen": list(range(25, 40))}
    nearest = {"all": (20, 28), "seen": (40, 50), "unseen": (0, 9)}
    comparison = compared((10, 30), nearest, groups=groups)
    assert better(comparison) == [(NEAREST, "seen")]
    assert sentences_about(better_baselines(comparison, 40)) == [
        "Giving the answer of the nearest training question is better than the model on the 25 seen exchanges "
        "(exact match 40.0% instead of 10.0%, chrF 50.0 instead of 30.0)."
    ]
    everything_seen = {"all": list(range(40)), "seen": list(range(40)), "unseen": []}
    assert better(compared((10, 30), (20, 40), groups=everything_seen)) == [(NEAREST, "all")]


def test_of_few_replies_or_without_chrf_nothing_is_said():
    assert better(compared((10, 30), (20, 40)), num_replies=9) == []
    assert better(compared((10, 30), (20, None))) == []
    assert check_baselines(compared((10, None), (20, None), (5, None)), 40) == []


def test_the_doctor_finds_a_model_that_is_not_worth_its_training():
    (finding,) = check_baselines(compared((10, 30), (5, 20)), 40)
    assert finding.severity == "good"
    (finding,) = check_baselines(compared((10, 30), (20, 40)), 40)
    assert (finding.severity, finding.title) == ("hint", "A free baseline is better")
    assert "exact match 20.0% instead of 10.0%, chrF 40.0 instead of 30.0" in finding.found
    assert "more wordings of each question" in finding.what_to_do
    (finding,) = check_baselines(compared((10, 30), (20, 40), (15, 35)), 40)
    assert finding.severity == "problem" and "Always giving the most frequent answer" in finding.found
