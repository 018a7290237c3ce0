import dataclasses
import math
import pkgutil
import typing
from typing import Annotated

import pytest

from chatformer.cli.main import VERBS
from chatformer.configuration import declaring
from chatformer.configuration.declaring import (
    AtLeast,
    AtMost,
    Formerly,
    LessThan,
    MoreThan,
    SettingsError,
    Share,
    check,
    did_you_mean,
    flag,
    parsed,
)
from chatformer.configuration.sharing import PushSettings, SpaceSettings
from chatformer.configuration.training import TrainingSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A section."""

    inner_share: Share | None = None
    """A share, or nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of all kinds."""

    count: Annotated[int, AtLeast(1)] = 1
    """A count."""
    top: Annotated[float, MoreThan(0), AtMost(1)] = 1.0
    """Two bounds."""
    seed: Annotated[int, AtLeast(0), LessThan(2**32, "2^32")] | None = None
    """A limit in words."""
    listed: Annotated[bool, Formerly("shown")] = True
    """A setting with an earlier name."""
    names: tuple[str, ...] = ()
    """No number."""
    section: Section = Section()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"count": 1, "top": 1, "seed": 0},
        {"top": 1e-9, "seed": 2**32 - 1},
        {"section": Section(inner_share=0)},
        {"section": Section(inner_share=0.999)},
    ],
)
def test_numbers_within_their_bounds_pass(changes):
    check(Settings(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 0}, "--count must be at least 1, but it is 0."),
        ({"count": math.nan}, "--count must be at least 1, but it is nan."),
        ({"top": 0.0}, "--top must be more than 0 and at most 1, but it is 0.0."),
        ({"top": 1.5}, "--top must be more than 0 and at most 1, but it is 1.5."),
        ({"seed": -1}, "--seed must be at least 0 and less than 2^32, but it is -1."),
        ({"seed": 2**32}, "--seed must be at least 0 and less than 2^32, but it is 4294967296."),
        (
            {"section": Section(inner_share=1)},
            "--inner-share must be at least 0 and less than 1, but it is 1.",
        ),
    ],
)
def test_the_first_number_out_of_bounds_is_named_with_its_rule(changes, message):
    with pytest.raises(SettingsError) as caught:
        check(Settings(**changes))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("arguments", "listed"),
    [
        ([], True),
        (["--no-listed"], False),
        (["--no-shown"], False),
        (["--no_shown"], False),
        (["--no-listed", "--shown"], True),
    ],
)
def test_an_earlier_name_of_a_flag_is_still_accepted(arguments, listed):
    assert parsed(Settings, arguments, program="test").listed is listed


def test_a_push_takes_the_flags_that_the_readme_once_showed():
    new = parsed(
        PushSettings, ["bot", "--hub-model-id", "you/bot", "--hub-private-repo", "--no-hub-samples"], program="push"
    )
    for repo in (["--repo", "you/bot"], ["--repo=you/bot"]):
        assert parsed(PushSettings, ["bot", *repo, "--private", "--no-samples"], program="push") == new
    space = ["bot", "--output-dir", "page", "--repo", "you/page", "--private", "--no-samples"]
    found = parsed(SpaceSettings, space, program="space")
    assert (found.repo, found.hub_private_repo, found.hub_samples) == ("you/page", True, False)


def test_an_earlier_name_is_not_shown_in_the_help(capsys):
    with pytest.raises(SystemExit):
        parsed(PushSettings, ["--help"], program="push")
    text = capsys.readouterr().out
    assert "--hub-model-id" in text and "--repo" not in text and "--private" not in text


def settings_classes():
    classes = {type(TrainingSettings()), *(type(section) for section in vars(TrainingSettings()).values())}
    classes |= {found for verb in VERBS.values() if isinstance(found := pkgutil.resolve_name(verb.settings), type)}
    return sorted((found for found in classes if dataclasses.is_dataclass(found)), key=lambda found: found.__name__)


@pytest.mark.parametrize("settings", settings_classes(), ids=lambda settings: settings.__name__)
def test_every_default_is_within_its_bounds(settings):
    required = {"model": "bot", "subject": ("bot",), "output_dir": "out", "checkpoint": "bot", "to": "onnx"}
    required |= {"hub_model_id": "bot"}
    without_default = [
        field.name
        for field in dataclasses.fields(settings)
        # A chat may have a server instead of a model, so that its default is no model.
        if field.default in (dataclasses.MISSING, "") and field.default_factory is dataclasses.MISSING
    ]
    check(settings(**{name: required[name] for name in without_default}))


def test_one_thing_has_one_flag_in_all_commands():
    """No command's flag is another's earlier name, but for the name of a Space, which is no model's."""
    names = {field.name for settings in settings_classes() for field in dataclasses.fields(settings)}
    former = {
        part.name
        for settings in settings_classes()
        for type_ in typing.get_type_hints(settings, include_extras=True).values()
        for part in declaring._declared(type_, Formerly)
    }
    assert former == {"repo", "private", "samples"}
    assert names & former == {"repo"}


def test_the_nearest_name_is_asked_for():
    assert did_you_mean("learning_rat", TrainingSettings().flat()) == " Did you mean 'learning_rate'?"
    assert did_you_mean("tarin", VERBS, shown_as="`chatformer {}`") == " Did you mean `chatformer train`?"
    assert did_you_mean("zzz", VERBS) == ""
    assert flag("hub_model_id") == "--hub-model-id"
