"""From the flags of a command line to its settings, with `tyro`, whose words for people are made plain here."""

import dataclasses
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from .declaring import Elsewhere, Formerly, SettingsError, declared, flag, from_text

Settings = TypeVar("Settings")


def parsed(
    settings: type[Settings], arguments: Sequence[str], *, program: str, default: Settings | None = None
) -> Settings:
    """The settings that a command line gives; what it leaves out is as in `default`, or has its field's default."""
    # Here, since it takes a tenth of a second, and many users of the settings parse nothing.
    import tyro

    registry = tyro.constructors.ConstructorRegistry()
    registry.struct_rule(_InPlainWords())
    options: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(
        settings,
        args=_with_names_of_today(settings, arguments),
        prog=program,
        registry=registry,
        config=(tyro.conf.PositionalMetavarFromFieldName,),
        **options,
    )


def _with_names_of_today(settings: type, arguments: Sequence[str]) -> list[str]:
    """A command line with the current flag in place of each former one; a `SettingsError` for a name of other tools."""
    current: dict[str, str] = {}
    elsewhere: dict[str, str] = {}
    for name, type_ in _types(settings):
        for former in declared(type_, Formerly):
            for prefix in ("", "no_"):
                current[flag(prefix + former.name)] = flag(prefix + name)
        for others in declared(type_, Elsewhere):
            elsewhere |= {flag(other): flag(name) for other in others.names}
    renamed = []
    for argument in arguments:
        given, sign, value = argument.partition("=")
        name = given.replace("_", "-")
        if name in elsewhere:
            raise SettingsError(f"There is no {given}. Its place has {elsewhere[name]}, which --help explains.")
        renamed.append(current.get(name, given) + sign + value)
    return renamed


def _types(settings: type) -> list[tuple[str, Any]]:
    """Each setting's name and type, also of the sections."""
    found = []
    for name, type_ in typing.get_type_hints(settings, include_extras=True).items():
        section = typing.get_args(type_)[0] if typing.get_origin(type_) is Annotated else type_
        is_section = isinstance(section, type) and dataclasses.is_dataclass(section)
        found += _types(section) if is_section else [(name, type_)]
    return found


class _InPlainWords:
    """
    How tyro reads a class of settings, but for what it would say of them.

    A setting that may be left open takes a number or a text, and not `{None}|FLOAT`; a wrong value is told as in a
    recipe; the help runs on where its string in the source begins a new line, and names no default that is nothing.
    """

    def __init__(self) -> None:
        self._asks_tyro = False

    def __call__(self, info: Any) -> Any:
        import tyro

        if self._asks_tyro or not dataclasses.is_dataclass(info.type):
            return None
        self._asks_tyro = True
        try:
            as_tyro_has_it = tyro.constructors.ConstructorRegistry.get_struct_spec(info)
        finally:
            self._asks_tyro = False
        assert isinstance(as_tyro_has_it, tyro.constructors.StructConstructorSpec)
        plain_types = typing.get_type_hints(info.type)
        fields = [self._field(field, plain_types[field.name]) for field in as_tyro_has_it.fields]
        return dataclasses.replace(as_tyro_has_it, fields=tuple(fields))

    def _field(self, field: Any, plain_type: Any) -> Any:
        import tyro

        annotations: list[Any] = []
        is_list = typing.get_origin(plain_type) is tuple
        if field.default in (None, (), "") or (is_list and not isinstance(field.default, tuple)):
            annotations.append(tyro.conf.arg(help_behavior_hint=""))
        if (metavar := _metavar(plain_type)) is not None:
            annotations.append(
                tyro.constructors.PrimitiveConstructorSpec(
                    nargs=1,
                    metavar=metavar,
                    instance_from_str=lambda texts: from_text(texts[0], plain_type, "it"),
                    is_instance=lambda value: True,
                    str_from_instance=lambda value: [str(value)],
                )
            )
        type_ = Annotated[(field.type, *annotations)] if annotations else field.type
        return dataclasses.replace(field, type=type_, helptext=_on_one_line(field.helptext))


def _metavar(plain_type: Any) -> str | None:
    """What stands for a value in the help; None for types that tyro reads well, such as those of switches and lists."""
    is_union = typing.get_origin(plain_type) in (types.UnionType, typing.Union)
    kinds = [kind for kind in (typing.get_args(plain_type) if is_union else [plain_type]) if kind is not type(None)]
    if typing.get_origin(kinds[0]) is Literal:
        return "{" + ",".join(typing.get_args(kinds[0])) + "}"
    return {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}.get(kinds[0]) if len(kinds) == 1 else None


def _on_one_line(helptext: str | Callable[[], str | None] | None) -> Callable[[], str | None]:
    def joined() -> str | None:
        text = helptext() if callable(helptext) else helptext
        return text and " ".join(text.split())

    return joined
