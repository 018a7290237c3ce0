import sys
from collections import Counter

import numpy as np
import pytest
import sacrebleu

from chatformer.evaluation.baselines import (
    Comparison,
    better_baselines,
    compare,
    nearest_answers,
    sentences_about,
)
from chatformer.evaluation.doctor.baselines import check_baselines
from chatformer.evaluation.figures import Evaluation, ReplyFigures

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


def test_seen_and_unseen_add_up_to_all(exchanges, outcome, training):
    comparison = compare(exchanges, outcome, training)
    groups, figures = comparison.groups, comparison.model
    assert groups["seen"] and groups["unseen"]
    assert sorted(groups["seen"] + groups["unseen"]) == groups["all"]
    answers = {answer for _, answer in training}
    assert [exchanges.replies[index] in answers for index in groups["seen"]] == [True] * len(groups["seen"])
    characters = np.array([len(reply) for reply in exchanges.replies])
    ones = np.ones(len(exchanges))
    for name, weights in {
        "loss": exchanges.target_lengths,
        "bits_per_character": characters,
        "source_gain": characters,
        "exact_match": ones,
        "copied_replies": ones,
    }.items():
        parts = [getattr(figures[group], name) * weights[groups[group]].sum() for group in ("seen", "unseen")]
        assert sum(parts) / weights.sum() == pytest.approx(getattr(figures["all"], name)), name


def test_baselines_reply_to_the_last_question(exchanges, outcome, training):
    comparison = compare(exchanges, outcome, training)
    nearest = comparison.baseline_replies["nearest question"]
    answer_to = {}
    for question, answer in training:
        answer_to.setdefault(question, answer)
    known = 0
    for history, reply in zip(exchanges.histories, nearest, strict=True):
        # Several turns may lie before.
        if history[-1]["content"] in answer_to:
            known += 1
            assert reply == answer_to[history[-1]["content"]]
    assert known > 10
    most_frequent = Counter(answer for _, answer in training).most_common(1)[0][0]
    assert set(comparison.baseline_replies["most frequent answer"]) == {most_frequent}
    figures = comparison.baselines["most frequent answer"]["all"]
    assert (figures.distinct_replies, figures.most_frequent_reply, figures.copied_replies) == (1, 100, 100)
    by_hand = sacrebleu.corpus_chrf(nearest, [exchanges.replies]).score
    assert comparison.baselines["nearest question"]["all"].chrf == by_hand


def test_the_first_of_equally_near_questions_answers():
    training = [("배고파 죽겠어", "one"), ("오늘 날씨 어때", "two"), ("오늘 날씨 어때", "three"), ("배고파", "four")]
    asked = ["오늘 날씨 어때?", "배고파!", "배고파 죽겠다"]
    assert nearest_answers(asked, training) == ["two", "four", "one"]


def test_without_training_data_there_are_no_groups_and_no_baselines(exchanges, outcome):
    comparison = compare(exchanges, outcome, None)
    assert list(comparison.groups) == ["all"] and not comparison.baselines
    assert comparison.model["all"].copied_replies is None


def test_a_group_without_exchanges_has_no_figures(exchanges, outcome):
    everything = [("질문", reply) for reply in exchanges.replies]
    comparison = compare(exchanges, outcome, everything)
    assert comparison.model["unseen"] is None
    assert comparison.model["seen"] == comparison.model["all"]


@pytest.mark.parametrize("package", ["evaluate", "sacrebleu", "sklearn"])
def test_without_the_extra_the_other_figures_are_there(monkeypatch, exchanges, outcome, training, package):
    whole = compare(exchanges, outcome, training)
    monkeypatch.setitem(sys.modules, package, None)
    comparison = compare(exchanges, outcome, training)
    assert comparison.model["all"].chrf is None and comparison.model["all"].bleu is None
    assert comparison.model["all"].distinct_2 == whole.model["all"].distinct_2
    assert list(comparison.baselines) == ["most frequent answer"]
