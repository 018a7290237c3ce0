import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.fixture
def measure(monkeypatch):
    """Return the benchmark's main function, to run on one thread of the CPU."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module("turns").main
    sys.modules.pop("turns")
    torch.set_num_threads(num_threads)


def test_both_tables_are_printed_and_written(measure, trained, tmp_path, capsys):
    file = tmp_path / "turns.json"
    flags = ["--num-questions", "20", "--device", "cpu", "--output-file", str(file)]
    assert measure([str(trained), *flags]) == 0
    printed = capsys.readouterr()
    report = json.loads(file.read_text("utf-8"))
    assert list(report["behind_other_topics"]) == ["0", "1", "2", "3", "5"]
    for number, figures in report["behind_other_topics"].items():
        row = f"| {number} | {figures['exact_match']:.1f}% | {figures['as_asked_alone']:.1f}% |"
        assert row in printed.out.splitlines()
        replies, references = report["other_topics"]["replies"][number], report["other_topics"]["references"]
        assert figures["exact_match"] == 100 * sum(map(str.__eq__, replies, references)) / 20
    assert report["behind_other_topics"]["0"]["as_asked_alone"] == 100
    assert list(report["by_history"]) == ["its own", "another's", "none"]
    assert re.search(r"^\| another's \| [\d.]+% \|$", printed.out, re.MULTILINE)
    # A bar is for terminals.
    assert printed.err == ""


def test_data_of_ones_own_and_a_model_that_reads_the_last_question_alone(
    measure, reads_questions, conversations_file, capsys
):
    flags = ["--data", str(conversations_file), "--num-questions", "12", "--device", "cpu"]
    assert measure([str(reads_questions), *flags]) == 0
    printed = capsys.readouterr()
    assert "12 single questions:" in printed.out and "| 5 | " in printed.out
    assert "note: this model reads the last question alone" in printed.err
    assert printed.out.count("| 100.0% |") >= 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{model}"], "has no training_settings.yaml"),
        (["{model}", "--num-questions", "0"], "--num-questions must be at least 1, but it is 0."),
        (["{model}", "--data", "missing.csv"], "There is no file missing.csv"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(measure, reads_questions, capsys, arguments, message):
    assert measure([argument.format(model=reads_questions) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("error: ") == 1 and message in printed.err
