import dataclasses
import math
import re

import pytest
import yaml

from chatformer.configuration.recipes import parse_settings
from chatformer.configuration.training import PLANNED, TrainingSettings, check_settings
from chatformer.training.pace import Pace
from chatformer.training.planning import (
    FEW_STEPS,
    MOST_REPEATS,
    TABLE,
    Facts,
    plan,
    plan_for_minutes,
    planned,
    shortcomings,
    steps_for,
)

CORPORA = [
    (95, 1_500),
    (285, 4_500),
    (950, 15_000),
    (2850, 45_000),
    (10_700, 160_000),
    (27_500, 900_000),
    (10**6, 2 * 10**7),
]


def facts(exchanges=2850, tokens=45_000, **changes):
    options = {"validation_exchanges": exchanges // 19, "has_metrics": True, "hardware": "2 cores"}
    return Facts(exchanges=exchanges, tokens=tokens, **(options | changes))


def settings(*flags):
    return parse_settings(["--data", "a.csv", "--output-dir", "run", *flags], program="chatformer train")


@pytest.mark.parametrize(("exchanges", "tokens"), CORPORA)
@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_plan_leaves_nothing_open_and_passes_every_check(exchanges, tokens, on_gpu):
    found = planned(settings(), facts(exchanges, tokens, on_gpu=on_gpu))
    check_settings(found)
    flat = found.flat()
    # How long is said once, and what stands behind other topics is decided when the conversations are read.
    assert [name for name in PLANNED if flat[name] is None] == ["other_topics_fraction", "num_train_epochs"]
    assert flat["max_steps"] >= 2 * FEW_STEPS
    assert flat["warmup_steps"] * 5 <= flat["max_steps"]
    assert not shortcomings(found, facts(exchanges, tokens, validation_exchanges=200), 10**6, flat["max_steps"], 5.0)


def test_more_data_never_has_fewer_steps_or_smaller_ones():
    found = [plan(facts(tokens // 15 + 1, tokens)) for tokens in range(100, 10**6, 997)]
    for name in ("max_steps", "tokens_per_step"):
        values = [getattr(each, name) for each in found]
        assert values == sorted(values)
    assert [row.tokens for row in TABLE] == sorted(row.tokens for row in TABLE)
    assert steps_for(10**12) == TABLE[-1].steps


@pytest.mark.parametrize("name", [name for name in PLANNED if name not in ("max_steps", "num_train_epochs")])
def test_each_flag_wins_over_the_plan_and_leaves_the_rest_planned(name):
    values = {
        "size": "small",
        "metric_for_best_model": "chrf",
        "eval_steps": "7",
        "tokens_per_step": "700",
        "warmup_steps": "9",
    }
    value = values.get(name, "0.125")
    mine = planned(settings(f"--{name.replace('_', '-')}", value), facts()).flat()
    everything = planned(settings(), facts()).flat()
    assert str(mine[name]) == value
    assert {other: mine[other] for other in PLANNED if other != name} == {
        other: everything[other] for other in PLANNED if other != name
    }


def test_what_depends_on_the_number_of_steps_follows_a_given_one():
    flat = planned(settings("--max-steps", "400"), facts()).flat()
    assert (flat["max_steps"], flat["warmup_steps"], flat["eval_steps"]) == (400, 80, 80)
    flat = planned(settings("--num-train-epochs", "10"), facts()).flat()
    steps = 10 * round(45_000 / flat["tokens_per_step"])
    assert (flat["max_steps"], flat["num_train_epochs"], flat["warmup_steps"]) == (None, 10.0, steps // 5)


@pytest.mark.parametrize(
    ("flags", "name", "expected"),
    [
        (["--lr-scheduler-type", "noam"], "learning_rate", 1.0),
        (["--average-checkpoints", "3"], "ema_decay", 0.0),
        (["--early-stopping-patience", "2"], "metric_for_best_model", "loss"),
        (["--size", "big"], "dropout", None),
    ],
)
def test_the_plan_gives_way_to_what_goes_with_a_flag(flags, name, expected):
    found = planned(settings(*flags), facts())
    check_settings(found)
    assert found.flat()[name] == expected


def test_pictures_are_learnt_by_heart_at_the_end():
    found = planned(settings(), facts(6000, 700_000, are_pictures=True)).flat()
    assert (found["dropout"], found["dropout_until"], found["metric_for_best_model"]) == (0.05, 0.6, "last")
    others = planned(settings(), facts(6000, 700_000)).flat()
    assert (others["dropout"], others["dropout_until"], others["metric_for_best_model"]) == (0.3, 1.0, "score")
    # What compares passes with dropout, or looks for the least loss, has it to the end.
    for flags in (("--rdrop-alpha", "1"), ("--early-stopping-patience", "2")):
        drawn = planned(settings(*flags), facts(6000, 700_000, are_pictures=True))
        check_settings(drawn)
        assert drawn.flat()["dropout_until"] == 1.0


def test_too_little_validation_chooses_nothing():
    assert plan(facts(validation_exchanges=99)).metric_for_best_model == "last"
    assert plan(facts(has_metrics=False)).metric_for_best_model == "last"
    assert plan(facts(validation_exchanges=100)).metric_for_best_model == "score"


@pytest.mark.parametrize("seconds", [0.001, 0.1, 0.4, 5.0])
@pytest.mark.parametrize("minutes", [1, 8, 600])
def test_minutes_are_kept_to(seconds, minutes):
    sizes = {"tiny": 0.5, "mini": 1.0, "small": 2.0}
    measured = []

    def measure(trial):
        measured.append(trial.model.size)
        return Pace(seconds * sizes[trial.model.size], 3.0)

    found, pace = plan_for_minutes(settings("--minutes", str(minutes)), facts(), measure)
    flat = found.flat()
    assert pace == Pace(seconds * sizes[flat["size"]], 3.0)
    assert measured == (["mini"] if flat["size"] == "mini" else ["mini", "tiny"])
    assert pace.minutes(flat["max_steps"], flat["eval_steps"]) <= minutes + pace.step / 60
    wanted = steps_for(45_000)
    # Either the time is used, or it is more than the data needs.
    assert (
        flat["max_steps"] == MOST_REPEATS * wanted
        or pace.minutes(flat["max_steps"] + 1, flat["eval_steps"]) > minutes - 0.3
    )
    # A smaller model where there is no time for the larger one.
    assert (flat["size"] == "tiny") == (Pace(seconds, 3.0).steps_in(minutes, 5) < wanted)


@pytest.mark.parametrize(
    ("flags", "seconds", "steps", "eval_steps"),
    [
        # A third of eight minutes has room for one evaluation of 100 seconds, and for none of 300.
        ((), 100.0, 3800, 3800),
        ((), 300.0, 2400, 2400),
        ((), 50.0, 3300, 1100),
        # Those that were asked for take their time.
        (("--eval-steps", "2000"), 100.0, 2800, 2000),
        (("--eval-steps", "100"), 100.0, 2400, 100),
    ],
)
def test_evaluations_leave_time_for_steps(flags, seconds, steps, eval_steps):
    pace = Pace(0.1, seconds)
    found, _ = plan_for_minutes(settings("--minutes", "8", "--size", "mini", *flags), facts(), lambda _: pace)
    assert (found.flat()["max_steps"], found.flat()["eval_steps"]) == (steps, eval_steps)


@pytest.mark.parametrize(
    ("flags", "save_steps"),
    [
        (("--max-steps", "2200", "--average-checkpoints", "5"), 88),
        (("--max-steps", "2200", "--average-checkpoints", "5", "--save-steps", "7"), 7),
        (("--max-steps", "4", "--average-checkpoints", "5"), 1),
        (("--max-steps", "2200"), None),
    ],
)
def test_averaged_checkpoints_are_of_the_end(flags, save_steps):
    found = planned(settings(*flags), facts())
    assert found.run.save_steps == save_steps
    # A run that is resumed without the flag goes on with the plan.
    again = settings(*(flag for flag in flags if flag not in ("--save-steps", "7"))).filled(found)
    assert again.run.save_steps == save_steps
    assert (found.optimization.ema_decay == 0) is (save_steps is not None)


def test_averaged_checkpoints_of_epochs_are_of_the_end_too():
    found = planned(settings("--num-train-epochs", "2", "--average-checkpoints", "4"), facts(tokens=200_000))
    steps = 2 * round(200_000 / found.optimization.tokens_per_step)
    assert found.run.save_steps == round(0.2 * steps / 4)


def test_what_cannot_teach_is_said_with_the_flag_to_change():
    def found(*flags, minutes=5.0, num_parameters=10**6, **changes):
        chosen = planned(settings(*flags), facts(**changes))
        return " ".join(shortcomings(chosen, facts(**changes), num_parameters, chosen.optimization.max_steps, minutes))

    assert "--max-steps" in found("--max-steps", "40")
    # Of a plan for minutes, more steps are more minutes.
    few, _ = plan_for_minutes(settings("--minutes", "0.1"), facts(), lambda _: Pace(0.1, 0.0))
    said = " ".join(shortcomings(few, facts(), 10**6, few.optimization.max_steps, 0.1))
    minutes = re.search(r"Take --minutes (\d+), or", said)
    longer, _ = plan_for_minutes(settings("--minutes", minutes[1]), facts(), lambda _: Pace(0.1, 0.0))
    assert longer.optimization.max_steps > 1000 and "--max-steps" not in said
    assert "--warmup-steps 600" in found("--max-steps", "3000", "--warmup-steps", "2000")
    assert "22,222 for each" in found(num_parameters=10**9)
    assert "Take a smaller --size" in found("--size", "mini", num_parameters=10**9)
    # There is none that is smaller.
    assert "little else. Take more data." in found("--size", "tiny", num_parameters=10**9)
    assert "--validation-fraction 0" in found(exchanges=95, tokens=1500, validation_exchanges=5)
    assert "--minutes 60" in found(minutes=200.0)
    noam = ("--lr-scheduler-type", "noam")
    assert "0.0005 makes the rate 2,000 times as low" in found(*noam, "--learning-rate", "5e-4")
    assert not found(*noam, "--learning-rate", "0.5") and not found(*noam) and not found("--learning-rate", "5e-4")
    assert "--repetition-penalty 1" in found(are_pictures=True)
    assert not found("--repetition-penalty", "1", are_pictures=True)
    assert "tunes, whose bars repeat" in found(are_tunes=True)
    assert not found()


def test_the_plan_is_written_as_plain_numbers_and_resumed(train, conversations_file, tmp_path):
    folder = tmp_path / "run"
    few = ["--data", str(conversations_file), "--output-dir", str(folder), "--d-model", "32", "--num-heads", "2"]
    assert train([*few, "--max-steps", "6", "--save-steps", "3"]) == 0
    written = yaml.safe_load((folder / "training_settings.yaml").read_text("utf-8"))
    assert written["size"] == "tiny"
    assert all(written[name] is not None for name in PLANNED if name != "num_train_epochs")
    assert written["other_topics_fraction"] == 0.25
    # The same words again, and the plan stays as it was.
    assert train([*few, "--max-steps", "6", "--save-steps", "3", "--resume"]) == 0
    assert yaml.safe_load((folder / "training_settings.yaml").read_text("utf-8")) == written


def test_a_resumed_run_is_not_planned_again():
    before = planned(settings(), facts())
    again = settings("--size", "small").filled(before).flat()
    assert again["size"] == "small"
    assert again["max_steps"] == before.optimization.max_steps
    # Another way to say how long takes the place of the plan's.
    assert settings("--num-train-epochs", "3").filled(before).optimization.max_steps is None
    assert TrainingSettings().filled(before).flat()["tokens_per_step"] == 500


def test_facts_are_plain():
    assert dataclasses.is_dataclass(Facts) and math.isinf(TABLE[-1].tokens)


def test_prose_is_drawn_and_chosen_by_its_loss():
    found = planned(settings(), facts(is_prose=True)).flat()
    assert (found["temperature"], found["top_p"], found["metric_for_best_model"]) == (0.8, 0.95, "loss")
    # Conversations are greedy.
    found = planned(settings(), facts()).flat()
    assert (found["temperature"], found["top_p"], found["metric_for_best_model"]) == (0.0, 1.0, "score")
    given = planned(settings("--temperature", "1.2", "--metric-for-best-model", "last"), facts(is_prose=True)).flat()
    assert (given["temperature"], given["top_p"], given["metric_for_best_model"]) == (1.2, 0.95, "last")
    assert plan(facts(is_prose=True, validation_exchanges=10)).metric_for_best_model == "last"
