"""
What a command reads is never overwritten.

Files are compared by what they are, not by their names: another spelling of a path, a symbolic link and a hard link
lead to the same file.
"""

import contextlib
import os
import sys
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from .explaining import StorageError
from .names import KINDS
from .writing import files_in

File = Path | int
"""A path, or the number of an open file."""


def is_same_file(one: File, other: File) -> bool:
    """True if both are the same regular file, by whatever path or link; a device may be read and written."""
    try:
        return os.path.isfile(one) and os.path.samefile(one, other)
    except OSError:
        # One of them does not exist.
        return False


def check_kept(outputs: Iterable[Path], inputs: Mapping[str, Iterable[File]], *, flag: str) -> None:
    """
    Raise a `StorageError` if a file to write is one of those to read.

    `inputs` are named for people: by a flag, or "the model". `flag` is the one that says where to write.
    """
    for output in outputs:
        for name, files in inputs.items():
            for file in files:
                if is_same_file(output, file):
                    found = f"it would write {output}"
                    if file != output and isinstance(file, Path):
                        found += f", which is the same file as {file}"
                    raise StorageError(
                        f"What a command reads is never overwritten, but {found}, which belongs to {name}. Give "
                        f"another {flag}."
                    )


def model_files(folder: Path | str, *, command: str) -> list[Path]:
    """The files of a model's folder, but not those that `command` itself writes there; none for a model on the Hub."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    patterns = [pattern for kind in KINDS if f"chatformer {command}" not in kind.writer for pattern in kind.patterns]
    return [
        file
        for entry in sorted(folder.iterdir())
        if any(fnmatchcase(entry.name, pattern) for pattern in patterns)
        for file in (files_in(entry) if entry.is_dir() else [entry])
    ]


def standard_input() -> list[File]:
    """What standard input reads, if it is open."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return [sys.stdin.fileno()]
    return []
