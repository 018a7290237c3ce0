"""
What settings are declared with: bounds and conditions next to the defaults, checks of all of them, the names of flags.
"""

import dataclasses
import difflib
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal


class SettingsError(ValueError):
    """A setting that is not possible: the message says where it is, what was expected and what was found."""


@dataclasses.dataclass(frozen=True)
class Bound:
    """A limit of a number, given in the type of its field: `Annotated[int, AtLeast(1)]`."""

    limit: float
    words: str | None = None
    """The limit as people write it, unless that is the number itself."""

    relation = ""

    def allows(self, value: float) -> bool:
        """True if the value keeps the limit; NaN keeps none."""
        raise NotImplementedError

    def __str__(self) -> str:
        return f"{self.relation} {self.limit if self.words is None else self.words}"


class AtLeast(Bound):
    relation = "at least"

    def allows(self, value: float) -> bool:
        return value >= self.limit


class MoreThan(Bound):
    relation = "more than"

    def allows(self, value: float) -> bool:
        return value > self.limit


class AtMost(Bound):
    relation = "at most"

    def allows(self, value: float) -> bool:
        return value <= self.limit


class LessThan(Bound):
    relation = "less than"

    def allows(self, value: float) -> bool:
        return value < self.limit


Share = Annotated[float, AtLeast(0), LessThan(1)]
Seed = Annotated[int, AtLeast(0), LessThan(2**32, "2^32")]


@dataclasses.dataclass(frozen=True)
class Formerly:
    """An earlier name of a setting, given in the type of its field: its flag is still accepted."""

    name: str


class Elsewhere:
    """Names that other tools have for a setting, given in the type of its field: whoever uses one is told ours."""

    def __init__(self, *names: str):
        self.names = names


class Needs:
    """Settings, one of which must be given for another to have an effect: `Annotated[int, Needs("temperature")]`."""

    def __init__(self, *names: str):
        self.names = names


@dataclasses.dataclass(frozen=True)
class Without:
    """A setting that takes the effect from another, given in the other's type: `Annotated[bool, Without("resume")]`."""

    name: str


@dataclasses.dataclass(frozen=True)
class OfHub:
    """The setting that names a model on the Hub if another is to have an effect: `Annotated[str, OfHub("model")]`."""

    name: str


def without_effect(settings: Any) -> list[str]:
    """A sentence for each setting that is given and changes nothing, and why."""
    sections = list(_sections(settings))
    values = {field.name: getattr(section, field.name) for section in sections for field in _fields(section)}
    known = given(settings)
    # What a request or a page may still bring.
    possible = known.union(getattr(settings, "MAY_COME_LATER", ()))
    sentences = []
    for section in sections:
        types = typing.get_type_hints(type(section), include_extras=True)
        for field in _fields(section):
            if field.name not in known:
                continue
            name = flag(f"no_{field.name}" if values[field.name] is False else field.name)
            for needs in declared(types[field.name], Needs):
                needed = [other for other in needs.names if other in values]
                if not possible.intersection(needed):
                    sentences.append(f"{name} has no effect without {' or '.join(map(flag, needed))}.")
            sentences += [
                f"{name} has no effect with {flag(without.name)}."
                for without in declared(types[field.name], Without)
                if without.name in known
            ]
            for of_hub in declared(types[field.name], OfHub):
                value = values[of_hub.name]
                for other in [value] if isinstance(value, str) else value or []:
                    if place := place_outside_the_hub(other):
                        sentences.append(f"{name} has no effect on {other}, which is not on the Hub but {place}.")
                        break
    return sentences


def place_outside_the_hub(name: str) -> str | None:
    """Where a model or data is, by its name, if it is not on the Hub."""
    if is_url(name):
        return "at an address of its own"
    return "on this machine" if name and Path(name).exists() else None


def is_url(name: str) -> bool:
    """True for an address of the web."""
    return name.lower().startswith(("http://", "https://"))


def given(settings: Any) -> set[str]:
    """The names of the settings that differ from their defaults, also in the sections."""
    names = set()
    for section in _sections(settings):
        for field in _fields(section):
            default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            if getattr(section, field.name) != default:
                names.add(field.name)
    return names


def _sections(settings: Any) -> Iterator[Any]:
    """Yield the settings, and then their sections."""
    yield settings
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from _sections(value)


def _fields(section: Any) -> Iterator[Any]:
    """Yield the fields of a section but not those that are sections."""
    for field in dataclasses.fields(section):
        if not dataclasses.is_dataclass(getattr(section, field.name)):
            yield field


def check(settings: Any) -> None:
    """Raise a `SettingsError` for the first number that is out of bounds, also in the sections of the settings."""
    types = typing.get_type_hints(type(settings), include_extras=True)
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            check(value)
            continue
        bounds = list(declared(types[field.name], Bound))
        if value is not None and not all(bound.allows(value) for bound in bounds):
            raise SettingsError(f"{flag(field.name)} must be {' and '.join(map(str, bounds))}, but it is {value}.")


def declared(type_: Any, kind: type) -> Iterator[Any]:
    """Yield what a type is annotated with, if it is of this kind, from any depth of the type."""
    for part in typing.get_args(type_):
        if isinstance(part, kind):
            yield part
        else:
            yield from declared(part, kind)


def flag(name: str) -> str:
    """The flag of a setting."""
    return f"--{name.replace('_', '-')}"


def name_of(typed: str) -> str:
    """The setting that a person names, as a flag or not."""
    return typed.lstrip("-").replace("-", "_")


def did_you_mean(name: str, known: Iterable[str], shown_as: str = "{!r}") -> str:
    """A question that names the nearest of the known names, to follow a sentence, or nothing if none is near."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {shown_as.format(nearest[0])}?" if nearest else ""


def from_text(text: str, expected: Any, where: str) -> Any:
    """What a person typed as the type of its setting; raise a `SettingsError` if it does not fit."""
    options = typing.get_args(expected) if typing.get_origin(expected) is not Literal else ()
    if type(None) in options and text.lower() == "none":
        return None
    kind = next((kind for kind in (int, float, Path) if kind in (expected, *options)), None)
    if kind is None:
        return converted(text, expected, where)
    try:
        return kind(text)
    except ValueError:
        return converted(text, expected, where)


def converted(value: Any, expected: Any, where: str) -> Any:
    """A value out of a YAML file as the type of its setting; raise a `SettingsError` if it does not fit."""
    options = typing.get_args(expected) if typing.get_origin(expected) is not tuple else ()
    if type(None) in options:
        if value is None:
            return None
        expected = next(option for option in options if option is not type(None))
    if typing.get_origin(expected) is Literal:
        # YAML reads an unquoted no as false.
        value = "no" if value is False and "no" in typing.get_args(expected) else value
        if value in typing.get_args(expected):
            return value
        raise SettingsError(f"{where} must be one of {', '.join(typing.get_args(expected))}, but it is {value!r}.")
    if typing.get_origin(expected) is tuple:
        kind = int if typing.get_args(expected)[0] is int else str
        items = value if isinstance(value, list) else [value]
        if all(type(item) is kind for item in items):
            return tuple(items)
        what = "whole number" if kind is int else "text"
        raise SettingsError(f"{where} must be a {what} or a list of {what}s, but it is {value!r}.")
    if expected is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        # YAML 1.1 reads 1e-3 as a text.
        try:
            return float(value)
        except ValueError:
            pass
    elif type(value) is expected:
        return value
    name = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[expected]
    raise SettingsError(f"{where} must be {name}, but it is {value!r}.")
