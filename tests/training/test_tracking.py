"""Trackers get the figures of the log, and a resumed run goes on in the run that it began."""

import importlib.util
import json
import typing

import pytest

from chatformer.configuration.training import Tracker
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
    assert (
        "--log-with must be one or more of tensorboard, trackio, wandb, but it is 'tensorbord'."
        in capsys.readouterr().err
    )


INSTALLED = [name for name in typing.get_args(Tracker) if importlib.util.find_spec(name)]


@pytest.fixture(scope="module")
def tracked(train, flags, tmp_path_factory):
    """Return the folder of a run that was resumed and reported to every tracker that is installed."""
    home = tmp_path_factory.mktemp("tracked")
    # Nothing is sent.
    places = {"WANDB_MODE": "offline", "WANDB_DIR": home, "TRACKIO_DIR": home / "trackio"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in places.items():
            patch.setenv(name, str(value))
        folder = home / "run"
        for steps, more in ((4, []), (6, ["--resume", "--resume-changed"])):
            assert train([*flags(folder, max_steps=steps, eval_steps=2), "--log-with", *INSTALLED, *more]) == 0
        yield folder


@pytest.mark.parametrize("tracker", typing.get_args(Tracker))
def test_a_resumed_run_is_reported_where_it_was_before(tracker, request):
    if tracker not in INSTALLED:
        pytest.skip(f"needs {tracker}: pip install {tracker}")
    folder = request.getfixturevalue("tracked")
    run_id = json.loads((folder / "training_record.json").read_text("utf-8"))["tracking_id"]
    if tracker == "wandb":
        # Two parts of one run, which `wandb sync` puts together.
        runs = folder.parent.glob("wandb/offline-run-*")
        assert [path.name.rpartition("-")[2] for path in runs] == [run_id] * 2
        return
    log = read_json_lines(folder / "training_log.jsonl")
    for name in ("loss", "eval_loss", "learning_rate"):
        logged = [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in log if name in line]
        assert logged
        if tracker == "tensorboard":
            assert reported_to_tensorboard(folder, name) == logged
        else:
            assert reported_to_trackio(run_id, name) == logged


def reported_to_tensorboard(folder, name):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "runs" / "chatformer"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def reported_to_trackio(run_id, name):
    from trackio.sqlite_storage import SQLiteStorage

    assert [run["name"] for run in SQLiteStorage.get_run_records("chatformer")] == [f"run-{run_id}"]
    assert SQLiteStorage.get_run_config("chatformer", f"run-{run_id}")["d_model"] == 32
    lines = SQLiteStorage.get_logs("chatformer", f"run-{run_id}")
    return [(line["step"], line[name]) for line in lines if name in line]
