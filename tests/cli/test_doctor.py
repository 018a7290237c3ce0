import csv
import json
import shutil
import subprocess
import sys

import datasets
import pytest
import torch
from safetensors.torch import load_file, save_file

from chatformer.cli.main import main


@pytest.fixture
def doctor(monkeypatch, capfd):
    """Return a function that examines within this process and returns the exit status and what was printed."""
    from accelerate.state import AcceleratorState

    def run(*arguments):
        AcceleratorState._reset_state(reset_partial_state=True)
        monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
        monkeypatch.setenv("COLUMNS", "1000")
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            status = main(["doctor", *(str(argument) for argument in arguments)])
        finally:
            torch.set_num_threads(num_threads)
        # What comes after it in this process has the bars of datasets.
        assert not datasets.are_progress_bars_disabled()
        return status, capfd.readouterr()

    return run


@pytest.fixture
def table(tmp_path):
    """Return a function that writes questions and answers as a CSV file."""

    def write(name, pairs):
        file = tmp_path / name
        with file.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([("Q", "A"), *pairs])
        return file

    return write


@pytest.fixture
def run_folder(trained, tmp_path):
    """Return a copy of a trained model's folder, to be spoilt."""
    return shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-*"))


def findings_in(folder):
    report = json.loads((folder / "doctor.json").read_text("utf-8"))
    return {finding["check"]: finding for finding in report["findings"] if finding["severity"] != "good"}


def test_healthy_data_ends_with_status_0_and_writes_nothing(doctor, table, tmp_path, monkeypatch):
    file = table("healthy.csv", [(f"how much is {number}?", f"it is {number} won.") for number in range(2000)])
    monkeypatch.chdir(tmp_path)
    status, printed = doctor(file)
    assert status == 0, printed.out + printed.err
    assert "No problems, no hints; 12 checks found nothing wrong." in printed.out
    assert "characters" in printed.out and "█" in printed.out and "What to do" not in printed.out
    assert [path.name for path in tmp_path.iterdir()] == ["healthy.csv"]


def test_ill_data_ends_with_status_1_and_says_what_to_do(doctor, table, tmp_path, caplog):
    pairs = [(f"question {number}?", "I don't know." if number % 2 else f"answer {number}") for number in range(300)]
    file = table("ill.csv", [*pairs, ("why\u2028so?", ""), ("how?", "so &amp; so")])
    flags = ["--validation-data", table("validation.csv", pairs[:10]), "--max-target-tokens", "2"]
    status, printed = doctor(file, *flags, "--output-dir", tmp_path / "out")
    assert status == 1, printed.err
    found = findings_in(tmp_path / "out")
    assert found["bad rows"]["examples"] == [f"{file}, row 302: the answer is empty"]
    assert (
        found["frequent answers"]["severity"]
        == found["leaks"]["severity"]
        == found["too long"]["severity"]
        == "problem"
    )
    for finding in found.values():
        assert f"{finding['title']}" in printed.out and f"What to do: {finding['what_to_do']}" in printed.out
        assert finding["found"] in printed.out and all(example in printed.out for example in finding["examples"])
    # Of the rows that were left out the findings tell; the list that the loader writes on the way is gone.
    assert "listed in" not in caplog.text
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "bad_rows.jsonl",
        "doctor.json",
        "lengths.png",
    ]
    assert json.loads((tmp_path / "out/bad_rows.jsonl").read_text("utf-8"))["row"] == 302
    assert json.loads((tmp_path / "out/doctor.json").read_text("utf-8"))["lengths"]["unit"] == "tokens"

    (tmp_path / "only").mkdir()
    file = table("only/bad.csv", [*((f"q {number}", f"a {number}") for number in range(2000)), ("why?", "")])
    assert doctor(file)[0] == 1
    assert doctor(file, "--skip-bad-rows")[0] == 0


def test_a_run_is_examined_with_its_own_data_and_log(doctor, run_folder, tmp_path, monkeypatch):
    # It was trained so little that it often says the same, whatever came before.
    monkeypatch.setattr("chatformer.evaluation.doctor.thread.ALWAYS_SAME", 1.0)
    status, printed = doctor(run_folder, "--output-dir", tmp_path / "out")
    report = json.loads((tmp_path / "out/doctor.json").read_text("utf-8"))
    checks = {finding["check"] for finding in report["findings"]}
    assert {"leaks", "size", "vocabulary size", "listening", "same reply", "copies", "memory", "training"} <= checks
    assert {"thread", "baselines"} <= checks
    for check in ("weights", "tied embeddings", "round trip", "future", "padding", "leaks"):
        assert check not in findings_in(tmp_path / "out"), printed.out
    # Of its 95 conversations there are too few, and it was trained for seconds.
    assert status == 1 and "There is little to learn from" in printed.out
    assert printed.out.index("The data") < printed.out.index("The model") < printed.out.index("The training")


def test_a_model_that_reads_the_last_question_alone_does_so_by_design(doctor, reads_questions, conversations_file):
    _, printed = doctor(reads_questions, "--data", conversations_file, "--max-exchanges", 20)
    assert "✓ It reads the last question alone. That is by design" in printed.out
    assert "! A part of the data is not read" in printed.out
    assert "the turns before a question (52 of 152 exchanges)" in printed.out


def test_a_run_that_does_not_listen_is_told_why(doctor, run_folder, tmp_path):
    weights = load_file(run_folder / "model.safetensors")
    (norm,) = (name for name in weights if name.startswith("model.encoder") and "feed_forward_norm.weight" in name)
    save_file({**weights, norm: torch.zeros_like(weights[norm])}, run_folder / "model.safetensors", {"format": "pt"})
    status, _ = doctor(run_folder, "--output-dir", tmp_path / "out")
    assert status == 1
    found = findings_in(tmp_path / "out")
    assert found["listening"]["title"] == "It does not listen"
    assert "The encoder's last norm has shrunk to 0" in found["listening"]["found"]
    assert found["same reply"]["title"] == "Every input gets the same answer"


def test_a_model_alone_needs_conversations_to_be_tried(doctor, run_folder, conversations_file, tmp_path):
    for file in run_folder.glob("training_*"):
        file.unlink()
    status, printed = doctor(run_folder)
    assert status == 0, printed.out
    assert "It was not tried" in printed.out and "has no training_settings.yaml" in printed.out
    _, printed = doctor(run_folder, "--data", conversations_file, "--max-exchanges", 20)
    assert "It was not tried" not in printed.out and "20 different questions got" in printed.out


def test_a_model_that_cannot_be_tried_is_not(doctor, run_folder, conversations_file):
    weights = load_file(run_folder / "model.safetensors")
    broken = next(name for name in weights if name.endswith("query.weight"))
    missing = next(name for name in weights if name.endswith("key.weight"))
    weights[broken][0, 0] = torch.inf
    kept = {name: weight for name, weight in weights.items() if name != missing}
    save_file(kept, run_folder / "model.safetensors", {"format": "pt"})
    status, printed = doctor(run_folder, "--data", conversations_file)
    assert status == 1
    for word in ("Weights are not numbers", broken, "Weights are missing", missing, "It was not tried"):
        assert word in printed.out


def test_weights_that_were_cut_off_are_told_in_one_line(doctor, run_folder, conversations_file):
    weights = run_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    status, printed = doctor(run_folder, "--data", conversations_file)
    assert status == 2 and "cannot be loaded as a model" in printed.err and "Traceback" not in printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Say what to look at"),
        (["missing.csv"], "There is no file missing.csv"),
        (["{empty}"], "The folder {empty} holds no model"),
        (["{strange}"], "{strange}: it is not clear which columns to read"),
        (["{strange}", "--question-column", "q"], "has no column 'q'"),
        (["{strange}", "--max-target-tokens", "0"], "--max-target-tokens must be at least 1, but it is 0"),
        (["{empty}", "--validation-data", "{strange}"], "--validation-data goes with data"),
        (["{empty}", "{empty}"], "One model at a time"),
        (["nowhere", "--data", "{strange}"], "There is no folder nowhere, and the Hub gave no model nowhere: "),
    ],
)
def test_what_cannot_be_is_told_in_one_line(doctor, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    places = {"empty": tmp_path / "empty", "strange": tmp_path / "strange.csv"}
    places["empty"].mkdir()
    places["strange"].write_text("one,two\n1,2\n", "utf-8")
    status, printed = doctor(*(argument.format(**places) for argument in arguments))
    assert status == 2
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert message.format(**places) in printed.err
    assert printed.out == ""


def test_the_command_line(environment, table, tmp_path):
    file = table("parrot.csv", [(f"what is {number}?", "네") for number in range(250)])
    command = [sys.executable, "-m", "chatformer.cli.main", "doctor", str(file)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert process.returncode == 1, process.stderr
    assert "✗ One answer is very frequent" in process.stdout and "100% of all replies are '네'" in process.stdout
    assert process.stderr == ""
    process = subprocess.run([*command, "--encoding", "no"], env=environment, capture_output=True, text=True)
    assert process.returncode == 2
    assert process.stderr.startswith("error: ") and process.stdout == ""
