"""Trackers get the figures of the log, and a resumed run goes on in the run that it began."""

import importlib.util
import json

import pytest

from chatformer.storage.reading import read_json_lines


def test_a_missing_package_is_an_error_with_its_install_line(train, flags, tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else find(name, *rest))
    assert train(flags(tmp_path / "run", log_with="wandb")) == 2
    assert "--log-with wandb needs the package wandb. Run: pip install wandb" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_recipe_cannot_name_an_unknown_tracker(train, flags, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text("log_with: [tensorbord]\n", "utf-8")
    assert train(flags(tmp_path / "run", recipe=tmp_path / "recipe.yaml")) == 2
    assert "--log-with must be of tensorboard, trackio, wandb, but it is 'tensorbord'." in capsys.readouterr().err


def test_a_resumed_run_is_reported_where_it_was_before(train, flags, tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = tmp_path / "run"
    assert train(flags(folder, max_steps=4, eval_steps=2, log_with="tensorboard")) == 0
    first = json.loads((folder / "training_record.json").read_text("utf-8"))["tracking_id"]
    again = [*flags(folder, max_steps=6, eval_steps=2, log_with="tensorboard"), "--resume", "--resume-changed"]
    assert train(again) == 0
    assert json.loads((folder / "training_record.json").read_text("utf-8"))["tracking_id"] == first
    events = accumulators.EventAccumulator(str(folder / "runs" / "chatformer"))
    events.Reload()
    log = read_json_lines(folder / "training_log.jsonl")
    for name in ("loss", "eval_loss"):
        reported = [(event.step, event.value) for event in events.Scalars(name)]
        assert reported == [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in log if name in line]
