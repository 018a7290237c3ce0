"""Folders that are written whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from .errors import HubError, first_line


def check_output_folder(output_dir: str) -> None:
    """Raise a `HubError` where something stands already."""
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise HubError(f"--output-dir {output_dir} is a file; give a folder that is new or empty.")
    if folder.is_dir() and any(folder.iterdir()):
        raise HubError(f"--output-dir {output_dir} is not empty; give a folder that is new or empty.")


@contextlib.contextmanager
def whole_or_nothing(output_dir: str) -> Iterator[Path]:
    """
    Give a new folder to write into, which becomes `output_dir` at the end, or vanishes when there is an error.

    Raises a `HubError` when the folder stands already or cannot be written.
    """
    check_output_folder(output_dir)
    folder = Path(output_dir).absolute()
    # Beside its place, for only within one file system does a folder move at once.
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    new_parents = [parent for parent in folder.parents if not parent.exists()]
    try:
        partial.mkdir(parents=True)
        yield partial
        if folder.is_dir():
            folder.rmdir()
        partial.rename(folder)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in new_parents:
            with contextlib.suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError | SafetensorError):
            raise HubError(f"{output_dir} could not be written, and nothing is left: {first_line(error)}") from error
        raise
