import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import pytest

from chatformer.configuration.command_line import parsed
from chatformer.configuration.declaring import AtLeast, Elsewhere, SettingsError
from chatformer.configuration.replies import ReplySettings
from chatformer.configuration.training import TrainingSettings

from .test_declaring import settings_classes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of all types."""

    steps: Annotated[int | None, AtLeast(1), Elsewhere("num_steps")] = None
    """A whole number, of which the help says so much that its
    string goes on in a second line of the source."""
    rate: Annotated[float, AtLeast(0)] | None = None
    """A number; the plan's unless given."""
    name: str | None = None
    """A text."""
    folder: Path | None = None
    """A path."""
    kind: Literal["plain", "fancy"] | None = None
    """A choice."""
    count: int = 3
    """A number with a default."""
    files: tuple[str, ...] = ()
    """A list."""


def read(*arguments):
    return parsed(Settings, arguments, program="it")


def test_what_is_typed_becomes_its_type_and_none_leaves_it_open():
    given = read("--steps", "2", "--rate", "1e-3", "--name", "2", "--folder", "a/b", "--kind", "fancy", "--count", "4")
    assert given == Settings(steps=2, rate=0.001, name="2", folder=Path("a/b"), kind="fancy", count=4)
    nothing = [part for name in ("steps", "rate", "name", "folder", "kind") for part in (f"--{name}", "None")]
    assert read(*nothing) == read() == Settings()
    assert parsed(Settings, ["--steps", "none"], program="it", default=given) == dataclasses.replace(given, steps=None)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--steps", "1e3"], "--steps: it must be a whole number, but it is '1e3'."),
        (["--count", "none"], "--count: it must be a whole number, but it is 'none'."),
        (["--rate", "fast"], "--rate: it must be a number, but it is 'fast'."),
        (["--kind", "odd"], "--kind: it must be one of plain, fancy, but it is 'odd'."),
    ],
)
def test_a_value_of_another_type_is_told_without_the_types_of_python(capsys, monkeypatch, arguments, told):
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as stopped:
        read(*arguments)
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert told in shown
    assert not any(word in shown for word in ("None", "NoneType", "typing", "Annotated", "(default: )"))


@pytest.mark.parametrize("settings", settings_classes(), ids=lambda settings: settings.__name__)
def test_no_help_names_a_default_that_is_nothing(settings, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "3000")
    with pytest.raises(SystemExit):
        parsed(settings, ["--help"], program="it")
    shown = capsys.readouterr().out
    assert not any(word in shown for word in ("{None}", "(default: None)", "(default: )", "STR|", "|STR"))


def test_the_help_is_the_string_under_the_setting(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit):
        read("--help")
    shown = capsys.readouterr().out
    assert "so much that its string goes on in a second line of the source." in shown
    assert "--rate FLOAT" in shown and "--kind {plain,fancy}" in shown and "(default: 3)" in shown


@pytest.mark.parametrize("argument", ["--num-steps", "--num_steps", "--num-steps=3"])
def test_the_name_of_other_tools_is_answered_with_ours(argument):
    with pytest.raises(SettingsError, match=r"^There is no --num.steps\. Its place has --steps"):
        read(argument, "3")


def test_settings_in_sections_have_names_elsewhere_too():
    for named, ours in {"--lr": "--learning-rate", "--batch-size": "--tokens-per-step", "--fp16": "--mixed-"}.items():
        with pytest.raises(SettingsError, match=f"There is no {named}. Its place has {ours}"):
            parsed(TrainingSettings, [named, "1"], program="train")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("temperature", "0.5", 0.5),
        ("--top-p", "0.9", 0.9),
        ("max_new_tokens", "7", 7),
        ("temperature", "none", None),
        ("num_beams", "4", 4),
    ],
)
def test_a_setting_of_a_chat_is_changed_as_it_is_typed(name, text, expected):
    changed = ReplySettings(temperature=1.0).changed(name, text)
    assert getattr(changed, name.lstrip("-").replace("-", "_")) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("temprature", "1", "There is no setting 'temprature'. Did you mean 'temperature'?"),
        ("num_beams", "none", "num_beams must be a whole number, but it is 'none'"),
        ("num_beams", "0", "--num-beams must be at least 1"),
    ],
)
def test_a_setting_of_a_chat_that_cannot_be_is_told(name, text, message):
    with pytest.raises(SettingsError) as error:
        ReplySettings().changed(name, text)
    assert str(error.value).startswith(message)
