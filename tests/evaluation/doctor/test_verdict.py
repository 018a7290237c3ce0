import pytest

from chatformer.configuration.training import OptimizationSettings, TrainingSettings
from chatformer.evaluation.doctor.run_log import RunLog
from chatformer.evaluation.doctor.verdict import verdict

SAMPLES = [{"source": "안녕", "reply": ".", "reference": "안녕하세요!"}]


def log_of(*evaluations, steps=400, **settings):
    """Return a log of a source gain, a most frequent reply's share in percent and a count of different ones each."""
    lines = [
        {
            "step": steps * number // len(evaluations),
            "eval_loss": 3.0,
            "eval_bits_per_character": 2.0,
            "eval_source_gain": gain,
            "eval_most_frequent_reply": share,
            "eval_distinct_replies": distinct,
            "samples": SAMPLES,
        }
        for number, (gain, share, distinct) in enumerate(evaluations, start=1)
    ]
    return RunLog(TrainingSettings(optimization=OptimizationSettings(**settings)), lines)


def test_a_model_that_listens_and_differs_has_no_verdict():
    assert verdict(log_of((0.5, 5.0, 80)), num_replies=100) == []


def test_a_model_that_does_not_listen_is_told_why_and_what_to_change():
    listening, same = verdict(log_of((0.0, 100.0, 1), (0.001, 97.0, 2)), num_replies=100)
    assert (listening.title, listening.severity) == ("It does not listen", "problem")
    assert "it has taken only 400 steps" in listening.found and "--max-steps" in listening.what_to_do
    assert same.title == "Every input gets the same answer"
    assert "100 questions got 2 different replies; the most frequent one makes up 97% of them." in same.found
    # The causes are told once.
    assert "only 400 steps" not in same.found and "'It does not listen'" in same.found
    assert same.examples == ("안녕 → .",)


def test_a_long_training_is_told_of_its_rate():
    log = log_of((0.0, 60.0, 9), steps=5000, learning_rate=4e-3, warmup_steps=100)
    (listening, _) = verdict(log, num_replies=100)
    assert "--learning-rate 0.004" in listening.found
    assert "--learning-rate 0.001 --warmup-steps 1000" in listening.what_to_do


def test_one_reply_to_all_is_told_of_a_model_that_listens_too():
    (same,) = verdict(log_of((0.5, 60.0, 30)), num_replies=100, most_frequent_answer=0.4)
    assert same.title == "Every input gets the same answer"
    assert "40% of the training's answers are the same one." in same.found


def test_a_small_model_whose_replies_differ_listens_however_badly_it_predicts():
    assert verdict(log_of((-0.3, 8.0, 25)), num_replies=30) == []


@pytest.mark.parametrize("gain", [0.0, -4e-7, 5e-4])
def test_replies_that_are_drawn_differ_without_listening(gain):
    (listening,) = verdict(log_of((0.4, 2.0, 90), (gain, 2.0, 90)), num_replies=100)
    assert (listening.title, listening.severity) == ("It does not listen", "problem")


def test_the_verdict_is_of_the_step_that_is_published():
    log = log_of((0.5, 5.0, 80), (0.0, 100.0, 1))
    assert verdict(log, num_replies=100, step=200) == []
    assert len(verdict(log, num_replies=100, step=400)) == len(verdict(log, num_replies=100)) == 2


@pytest.mark.parametrize("num_replies", [0, 9])
def test_of_few_replies_nothing_is_said(num_replies):
    assert verdict(log_of((0.0, 100.0, 1)), num_replies=num_replies) == []
    assert verdict(log_of(), num_replies=100) == []
