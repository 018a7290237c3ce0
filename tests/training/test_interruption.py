"""A run that is stopped, killed, damaged or starved is resumed as if nothing had been, or says why it cannot be."""

import json
import os
import signal
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from accelerate import Accelerator
from safetensors import SafetensorError

from chatformer import ChatformerForConditionalGeneration
from chatformer.training import gradients, verify_resume
from chatformer.training import run as loop
from chatformer.training.checkpoints import checkpoints, damage


def log_of(folder):
    return verify_resume._losses(folder)


def weights_of(folder):
    return safetensors.torch.load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def plan():
    return {"max_steps": 20, "eval_steps": 10, "save_steps": 5, "dropout": 0.2}


@pytest.fixture(scope="module")
def whole(plan, flags, train, tmp_path_factory):
    """Return the folder of a run that was left alone."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train(flags(folder, **plan)) == 0
    return folder


@pytest.fixture
def stopped(plan, flags, train, tmp_path, monkeypatch):
    """Return the folder of a run that stopped before its twelfth step, without another word."""
    folder = tmp_path / "stopped"

    def stop(run):
        if run.progress.step == 11:
            raise SystemExit
        take_step(run)

    take_step = loop.Run.take_step
    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "take_step", stop)
        with pytest.raises(SystemExit):
            train(flags(folder, **plan))
    assert [path.name for path in checkpoints(folder)] == ["checkpoint-10", "checkpoint-5"]
    return folder


def assert_equal_runs(one, other):
    assert not verify_resume._differences(one, other)


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(plan, flags, environment):
    settings = flags("unused", **plan, ema_decay=0.9, rdrop_alpha=1.0, bpe_dropout=0.1, word_swap=0.1)
    command = [sys.executable, "-m", "chatformer.cli.main", "train", *settings, "--verify-resume"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "ended with the same bits" in found.stdout


def test_runs_that_differ_are_told_apart(whole, plan, flags, train, tmp_path):
    other = tmp_path / "other"
    # The last bit of one number of the optimizer's.
    assert train(flags(other, **plan | {"adam_epsilon": 2e-9})) == 0
    assert {"optimizer.bin", "the published weights", "the losses in the log"} <= set(
        verify_resume._differences(whole, other)
    )


@pytest.mark.parametrize("broken", ["model.safetensors", "optimizer.bin", "checksums.json"])
@pytest.mark.parametrize("how", ["cut", "bit", "gone"])
def test_a_damaged_checkpoint_is_recognised_and_the_one_before_is_used(whole, stopped, train, capsys, broken, how):
    file = stopped / "checkpoint-10" / broken
    content = file.read_bytes()
    if how == "gone":
        file.unlink()
    elif how == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        file.write_bytes(content[:-40] + bytes([content[-40] ^ 1]) + content[-39:])
    assert damage(stopped / "checkpoint-5") is None
    assert train(["--output-dir", stopped, "--resume"]) == 0
    told = capsys.readouterr().err
    assert "checkpoint-10 is damaged" in told
    # Where the sums are wrong, any file may seem to be.
    assert broken in told or (broken, how) == ("checksums.json", "bit")
    assert_equal_runs(whole, stopped)


def test_without_a_whole_checkpoint_there_is_nothing_to_resume(stopped, train, capsys):
    for checkpoint in checkpoints(stopped):
        (checkpoint / "optimizer.bin").unlink()
    assert train(["--output-dir", stopped, "--resume"]) == 2
    assert "No checkpoint" in capsys.readouterr().err


def test_other_settings_are_refused_unless_they_are_wanted(stopped, train, capsys):
    changed = ["--output-dir", stopped, "--resume", "--learning-rate", "1e-3", "--dropout", "0.2"]
    assert train(changed) == 2
    told = capsys.readouterr().err
    assert "learning_rate: 0.005 before, 0.001 now" in told and "--resume-changed" in told and "dropout" not in told
    assert train([*changed, "--resume-changed"]) == 0


def test_other_data_is_refused_unless_it_is_wanted(stopped, train, capsys, conversations, tmp_path):
    data = tmp_path / "other.jsonl"
    data.write_text("".join(json.dumps(made, ensure_ascii=False) + "\n" for made in conversations[:90]), "utf-8")
    changed = ["--output-dir", stopped, "--resume", "--data", data]
    assert train(changed) == 2
    assert "other training conversations: 90 before, 81 now" in capsys.readouterr().err
    assert train([*changed, "--resume-changed"]) == 0


def test_the_same_data_in_another_place_is_the_same_data(whole, stopped, train, conversations_file, tmp_path):
    data = tmp_path / "moved.jsonl"
    data.write_bytes(conversations_file.read_bytes())
    assert train(["--output-dir", stopped, "--resume", "--data", data]) == 0
    assert_equal_runs(whole, stopped)


def test_a_stop_in_the_middle_of_an_evaluation_saves_at_once(whole, plan, flags, train, tmp_path, monkeypatch, capfd):
    folder = tmp_path / "run"

    def interrupted(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("The evaluation went on.")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate", interrupted)
        assert train(flags(folder, **plan)) == 130
    assert checkpoints(folder)[0].name == "checkpoint-10"
    assert "--resume" in capfd.readouterr().err
    assert train(["--output-dir", folder, "--resume"]) == 0
    assert_equal_runs(whole, folder)


def test_a_stop_in_the_middle_of_the_last_evaluation_leaves_it_to_be_done(
    whole, plan, flags, train, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    evaluate = loop.evaluate

    def interrupted_at_the_end(*arguments, **options):
        if (folder / "checkpoint-15").exists():
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate", interrupted_at_the_end)
        assert train(flags(folder, **plan)) == 130
    assert train(["--output-dir", folder, "--resume"]) == 0
    assert_equal_runs(whole, folder)


def test_a_full_disk_keeps_the_checkpoint_before(whole, plan, flags, train, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    save = torch.save

    def full_at_ten(content, path, *arguments, **options):
        if "checkpoint-10" in str(path) and "optimizer" in str(path):
            raise OSError(28, "No space left on device")
        return save(content, path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full_at_ten)
        assert train(flags(folder, **plan)) == 2
    told = capsys.readouterr().err
    assert "step 10" in told and "No space left on device" in told and "--resume" in told
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-5"]
    assert train(["--output-dir", folder, "--resume"]) == 0
    assert_equal_runs(whole, folder)


def test_a_disk_that_is_full_for_weights_is_told_in_a_sentence(plan, flags, train, tmp_path, monkeypatch, capsys):
    full = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    for place, owner in (
        ("The checkpoint of step 5", Accelerator),
        ("The model could not", ChatformerForConditionalGeneration),
    ):
        folder = tmp_path / owner.__name__

        def fails(*_arguments, **_options):
            raise full

        with monkeypatch.context() as patch:
            patch.setattr(owner, "save_state" if owner is Accelerator else "save_pretrained", fails)
            assert train(flags(folder, **plan)) == 2
        told = capsys.readouterr().err
        assert place in told and "No space left on device" in told and "Traceback" not in told
        # There is no checkpoint yet.
        assert owner is not Accelerator or "--resume" not in told
        assert not list(folder.glob("*.partial"))


def test_a_run_that_had_finished_is_not_judged_again(flags, train, tmp_path, monkeypatch):
    judged = []
    monkeypatch.setattr("chatformer.training.train.show_verdict", lambda *_: judged.append(True))
    folder = tmp_path / "run"
    assert train(flags(folder, max_steps=4)) == 0
    assert train(["--output-dir", folder, "--resume"]) == 0
    assert judged == [True]


def test_a_loss_that_is_no_number_stops_the_run_and_names_step_and_rows(
    plan, flags, train, tmp_path, replace_loss_of_run, capsys
):
    loss = gradients.training_loss
    calls = []

    def broken(model, batch, **options):
        calls.append(batch)
        return loss(model, batch, **options) * (math_nan if len(calls) >= 13 else 1)

    math_nan = float("nan")
    replace_loss_of_run(broken)
    folder = tmp_path / "run"
    assert train(flags(folder, **plan, logging_steps=4)) == 2
    told = capsys.readouterr().err
    assert "The loss is nan at step 13" in told and "→" in told and "--learning-rate" in told
    assert checkpoints(folder)[0].name == "checkpoint-10"
    assert all(weight.isfinite().all() for weight in weights_of(checkpoints(folder)[0]).values())


def test_early_stopping_ends_a_run_that_gets_no_better(flags, train, tmp_path):
    folder = tmp_path / "run"
    # So slow that no reply is ever right.
    plan = {"max_steps": 60, "eval_steps": 5, "learning_rate": 1e-6, "early_stopping_patience": 2}
    assert train(flags(folder, **plan, metric_for_best_model="exact_match")) == 0
    assert [line["step"] for line in log_of(folder) if "eval_loss" in line] == [5, 10, 15]
    record = json.loads((folder / "training_record.json").read_text("utf-8"))
    assert record["finished"] and record["best"]["step"] == 5


# The last step's checkpoint counts wherever it falls.
@pytest.mark.parametrize("more", [{"eval_steps": 20}, {"eval_steps": 60, "save_steps": 7}, {}])
def test_the_average_of_the_last_checkpoints_is_published(plan, flags, train, tmp_path, more):
    folder = tmp_path / "run"
    average = {"average_checkpoints": 3, "save_total_limit": 20, **more}
    assert train(flags(folder, **plan | average)) == 0
    last = [weights_of(path) for path in checkpoints(folder)[:3]]
    assert len(last) == 3
    for name, published in weights_of(folder).items():
        mean = torch.stack([weights[name].double() for weights in last]).mean(0)
        torch.testing.assert_close(published.double(), mean, rtol=0, atol=2e-7)


def test_noise_is_the_same_however_a_step_is_split(plan, flags, train, tmp_path):
    noisy = plan | {"dropout": 0, "token_dropout": 0.1, "word_swap": 0.2, "bpe_dropout": 0.2}
    losses = {}
    for parts in (1, 4):
        folder = tmp_path / str(parts)
        assert train(flags(folder, **noisy, gradient_accumulation_steps=parts)) == 0
        losses[parts] = [line["loss"] for line in log_of(folder) if "loss" in line]
    assert losses[4] == pytest.approx(losses[1], rel=2e-5)
    quiet = tmp_path / "quiet"
    assert train(flags(quiet, **plan | {"dropout": 0})) == 0
    assert [line["loss"] for line in log_of(quiet) if "loss" in line] != pytest.approx(losses[1], rel=2e-5)
