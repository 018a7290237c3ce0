"""Errors that a user of the hub can correct."""

import contextlib
import importlib
from collections.abc import Iterator
from types import ModuleType

from chatformer.storage.explaining import StorageError, first_line


class HubError(ValueError):
    """A model that cannot be shared as asked: the message says what was expected, what was found and what to do."""


@contextlib.contextmanager
def as_hub_error() -> Iterator[None]:
    """Turn a `StorageError` into a `HubError`; also a decorator."""
    try:
        yield
    except StorageError as error:
        raise HubError(str(error)) from error


def optional_package(name: str, *, extra: str) -> ModuleType:
    """Import a package that an extra installs; raise a `HubError` that names the extra."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise HubError(
            f"This needs the package {name}, which cannot be imported ({first_line(error)}): "
            f"pip install 'chatformer[{extra}]'"
        ) from error
