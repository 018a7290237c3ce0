import dataclasses
import math
import pkgutil
import typing
from typing import Annotated

import pytest

from chatformer.cli.main import VERBS
from chatformer.configuration import declaring
from chatformer.configuration.command_line import parsed
from chatformer.configuration.declaring import (
    AtLeast,
    AtMost,
    Formerly,
    LessThan,
    MoreThan,
    Needs,
    OfHub,
    SettingsError,
    Share,
    Without,
    check,
    did_you_mean,
    flag,
    given,
    without_effect,
)
from chatformer.configuration.replies import ChatSettings, ReplySettings
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
    classes = {
        ReplySettings,
        type(TrainingSettings()),
        *(type(section) for section in vars(TrainingSettings()).values()),
    }
    classes |= {found for verb in VERBS.values() if isinstance(found := pkgutil.resolve_name(verb.settings), type)}
    return sorted((found for found in classes if dataclasses.is_dataclass(found)), key=lambda found: found.__name__)


@pytest.mark.parametrize("settings", settings_classes(), ids=lambda settings: settings.__name__)
def test_every_default_is_within_its_bounds(settings):
    required = {
        "model": "bot",
        "models": ("bot", "other"),
        "subject": ("bot",),
        "output_dir": "out",
        "checkpoint": "bot",
        "to": "onnx",
    }
    required |= {"hub_model_id": "bot", "picture": "attention", "output_file": "a.png"}
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
        for part in declaring.declared(type_, Formerly)
    }
    assert former == {"repo", "private", "samples"}
    assert names & former == {"repo"}


def test_the_nearest_name_is_asked_for():
    assert did_you_mean("learning_rat", TrainingSettings().flat()) == " Did you mean 'learning_rate'?"
    assert did_you_mean("tarin", VERBS, shown_as="`chatformer {}`") == " Did you mean `chatformer train`?"
    assert did_you_mean("zzz", VERBS) == ""
    assert flag("hub_model_id") == "--hub-model-id"


REQUIRED = {
    "checkpoint": "org/bot",
    "hub_model_id": "org/bot",
    "models": ("bot", "other"),
    "model": "org/bot",
    "output_dir": "out",
    "output_file": "a.png",
    "picture": "attention",
    "subject": ("org/bot",),
    "to": "onnx",
}


def made(settings, *names, **values):
    """Return settings of a class with these values, and with any but the default where only a name is given."""
    known = {}
    for field in dataclasses.fields(settings):
        if dataclasses.is_dataclass(field.default):
            known[field.name] = made(type(field.default), *names)
        elif field.name in values:
            known[field.name] = values[field.name]
        elif field.default in (dataclasses.MISSING, "") and field.default_factory is dataclasses.MISSING:
            known[field.name] = REQUIRED[field.name]
        elif field.name in names:
            kinds = set(declaring_types(typing.get_type_hints(settings)[field.name]))
            known[field.name] = (
                not field.default if bool in kinds else 2 if int in kinds else 0.5 if float in kinds else ("x",)
            )
    return settings(**known)


def declaring_types(type_):
    """Yield all types that a type is made of."""
    yield type_
    for part in typing.get_args(type_):
        yield from declaring_types(part)


def conditions():
    """Return each condition with its class of settings and its field."""
    return [
        (settings, field.name, condition)
        for settings in settings_classes()
        for field in dataclasses.fields(settings)
        for kind in (Needs, Without, OfHub)
        for condition in declaring.declared(typing.get_type_hints(settings, include_extras=True)[field.name], kind)
    ]


@pytest.mark.parametrize(
    ("settings", "name", "condition"), conditions(), ids=lambda value: getattr(value, "__name__", str(value)[:24])
)
def test_what_changes_nothing_is_said_and_what_changes_something_is_not(settings, name, condition, tmp_path):
    def said(*names, **values):
        found = made(settings, *names, **values)
        flags = flag(name), flag(f"no_{name}")
        return [sentence for sentence in without_effect(found) if sentence.split()[0] in flags]

    known = {each.name for section in declaring._sections(made(settings)) for each in dataclasses.fields(section)}
    assert said() == []
    if isinstance(condition, Needs):
        needed = known.intersection(condition.names)
        assert needed, f"{settings.__name__} has none of {condition.names}"
        # What is always given, or comes with a request, is not lacking.
        is_there = bool(needed & {*given(made(settings)), *getattr(settings, "MAY_COME_LATER", ())})
        assert len(said(name)) == (0 if is_there else 1)
        for other in needed:
            assert said(name, other) == []
    elif isinstance(condition, Without):
        because = f" has no effect with {flag(condition.name)}."
        assert not any(sentence.endswith(because) for sentence in said(name))
        # Some commands have only the setting, such as an evaluation, which talks to no server.
        is_said = any(sentence.endswith(because) for sentence in said(name, condition.name))
        assert is_said == (condition.name in known)
    else:
        assert said(name) == []
        for outside in (str(tmp_path), "https://example.org/bot"):
            value = (outside,) if condition.name == "subject" else outside
            assert len(said(name, **{condition.name: value})) == 1


def test_what_takes_the_effect_is_a_setting():
    known = {field.name for settings in settings_classes() for field in dataclasses.fields(settings)}
    assert {condition.name for _, _, condition in conditions() if isinstance(condition, Without)} <= known


def test_the_settings_that_depend_on_others():
    assert {name for _, name, _ in conditions()} == {
        *("top_p", "top_k", "length_penalty", "revision", "hub_private_repo", "validation_fraction", "split_seed"),
        "data_repeats",
        *("resume", "dry_run"),
        *("question_column", "answer_column", "messages_column", "system_column", "context_column"),
        *("sheet", "encoding", "data_format", "dataset_split", "dataset_revision", "dataset_streaming"),
        *("num_beams", "no_repeat_ngram_size", "engine", "device", "examples", "api_key", "num_draws"),
        *("repetition_penalty", "skip_bad_rows"),
    }
    # The branch of a push need not exist.
    with_revision = {settings for settings, name, _ in conditions() if name == "revision"}
    assert {found for found in settings_classes() if "revision" in made(found).__dataclass_fields__} == {
        *with_revision,
        PushSettings,
    }


def test_a_condition_looks_into_the_sections():
    assert without_effect(ChatSettings(model="org/bot", reply=ReplySettings(top_k=9))) == [
        "--top-k has no effect without --temperature."
    ]
    drawing = ReplySettings(temperature=0.5, top_p=0.9, length_penalty=2.0)
    assert without_effect(ChatSettings(model="org/bot", seed=1, reply=drawing)) == [
        "--length-penalty has no effect without --num-beams."
    ]
    assert without_effect(SpaceSettings(model="org/bot", output_dir="page", hub_private_repo=True)) == [
        "--hub-private-repo has no effect without --repo."
    ]
