"""What is accepted has an effect, or is said to have none."""

import logging

import pytest

from chatformer.chat.terminal import run_command
from chatformer.cli.main import main
from chatformer.configuration.data import DataSettings
from chatformer.configuration.declaring import without_effect as declared
from chatformer.configuration.evaluation import DoctorSettings
from chatformer.configuration.replies import ChatSettings
from chatformer.data.preparation import read_conversations
from chatformer.evaluation.doctor.subject import without_effect
from chatformer.storage.printing import plain_console


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--revision", "v1"], "--revision has no effect on {folder}, which is not on the Hub but on this machine."),
        (["--top-p", "0.5"], "--top-p has no effect without --temperature."),
        (["--length-penalty", "2"], "--length-penalty has no effect without --num-beams."),
        (["--top-k", "9"], "--top-k has no effect without --temperature."),
        (["--seed", "1", "--top-k", "9", "--temperature", "0.5"], None),
    ],
)
def test_a_command_says_what_changes_nothing(trained, tmp_path, capsys, arguments, sentence):
    (tmp_path / "lines.txt").write_text("안녕\n", "utf-8")
    capsys.readouterr()
    assert main(["generate", str(trained), "--data", str(tmp_path / "lines.txt"), "--device", "cpu", *arguments]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert lines == ([] if sentence is None else [f"warning: {sentence.format(folder=trained)}"])


def test_only_one_of_several_processes_says_it(monkeypatch, capsys):
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert main(["evaluate", "no/such/folder", "--length-penalty", "2"]) == 2
    assert capsys.readouterr().err.count("--length-penalty has no effect") == 1


def test_a_chat_says_it_of_what_is_set(capsys):
    settings = run_command("set", ["top_p", "0.5"], None, ChatSettings(seed=1), plain_console())
    assert settings.reply.top_p == 0.5 and capsys.readouterr().out == (
        "top_p = 0.5\n--top-p has no effect without --temperature.\n"
    )
    settings = run_command("set", ["temperature", "0.5"], None, settings, plain_console())
    assert (settings.reply.top_p, settings.reply.temperature) == (0.5, 0.5)
    assert capsys.readouterr().out == "temperature = 0.5\n"
    remote = ChatSettings(url="http://127.0.0.1:8000")
    assert run_command("set", ["num_beams", "4"], None, remote, plain_console()).reply.num_beams == 4
    assert capsys.readouterr().out == "num_beams = 4\n--num-beams has no effect with --url.\n"


@pytest.mark.parametrize(
    ("flag", "value"), [("--hub-strategy", "best"), ("--hub-model-id", "bot"), ("--rdrop-alpha", "1")]
)
def test_a_training_that_would_not_do_what_is_asked_does_not_begin(tmp_path, capsys, flag, value):
    assert main(["train", "--data", "a.csv", "--output-dir", str(tmp_path / "run"), "--dropout", "0", flag, value]) == 2
    assert capsys.readouterr().err.startswith(f"error: {flag} ")


def test_a_revision_has_an_effect_on_the_hub_alone(tmp_path):
    def said(subject, **options):
        settings = DoctorSettings(subject=(subject,), revision="v1", **options)
        return [*declared(settings), *without_effect(settings)]

    (tmp_path / "pairs.csv").write_text("question,answer\n", "utf-8")
    for here in (str(tmp_path), str(tmp_path / "pairs.csv")):
        assert said(here) == [f"--revision has no effect on {here}, which is not on the Hub but on this machine."]
    url = "https://example.org/pairs.csv"
    assert said(url) == [f"--revision has no effect on {url}, which is not on the Hub but at an address of its own."]
    assert said("org/pairs") == ["--revision has no effect on data: it is for models."]
    assert said("org/bot", data=("pairs.csv",)) == []


def test_the_doctor_says_what_is_for_another_subject(tmp_path):
    data = DoctorSettings(subject=("pairs.csv",), device="cpu", max_exchanges=9, encoding="cp949")
    assert [sentence.split()[0] for sentence in without_effect(data)] == ["--max-exchanges", "--device"]
    options = {"device": "cpu", "encoding": "cp949"}
    assert without_effect(DoctorSettings(subject=(str(tmp_path),), **options)) == [
        "--encoding has no effect on a model without --data."
    ]
    assert without_effect(DoctorSettings(subject=(str(tmp_path),), data=("pairs.csv",), **options)) == []


def test_data_says_which_ways_to_read_it_are_for_other_data(tmp_path, caplog):
    (tmp_path / "pairs.csv").write_text("question,answer\n안녕,네\n", "utf-8")
    options = {"dataset_split": "test", "dataset_revision": "v1", "dataset_streaming": True, "sheet": "one"}
    settings = DataSettings(**options)
    with caplog.at_level(logging.WARNING):
        read_conversations((str(tmp_path / "pairs.csv"),), settings, skip_bad_rows=False)
        assert len(caplog.messages) == 4
        caplog.clear()
        read_conversations(("starter",), settings, skip_bad_rows=False, max_rows=1)
    (message,) = caplog.messages
    assert all(f"--{name.replace('_', '-')}" in message for name in options) and "--encoding" not in message
    caplog.clear()
    read_conversations(("starter",), DataSettings(), skip_bad_rows=False, max_rows=1)
    assert caplog.messages == []
