"""What can go wrong when a model comes in or goes out, and is not our own mistake."""

import importlib
from types import ModuleType


class HubError(ValueError):
    """A model that cannot be shared as asked: the message says what was expected, what was found and what to do."""


def first_line(error: BaseException) -> str:
    """Return what an error of another library says, without the lines of advice that follow."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def optional_package(name: str, *, extra: str) -> ModuleType:
    """Import a package that not everybody has; raise a `HubError` that names the extra which brings it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise HubError(
            f"This needs the package {name}, which cannot be imported ({first_line(error)}): "
            f"pip install 'chatformer[{extra}]'"
        ) from error
