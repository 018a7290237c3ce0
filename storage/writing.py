"""
Write files and folders, complete or not at all.

Each is written under a temporary name in the same folder, flushed to the disk and renamed: a process that is killed at
any moment leaves the old content or the new one.
"""

import contextlib
import errno
import json
import math
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .explaining import StorageError, first_line


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary file to write; it replaces `path` at the end, and is removed after an error."""
    if path.exists() and not path.is_file():
        # A device or a pipe, which no file may replace.
        yield path
        return
    # A link stays a link: the file behind it is replaced.
    path = path.resolve()
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "No such folder", str(path.parent))
    partial = temporary_name(path)
    try:
        yield partial
        flush(partial)
        os.replace(partial, path)
        _fsync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a file by a text in UTF-8."""
    with whole_file(path) as partial:
        partial.write_text(text, "utf-8", newline="\n")


def json_text(content: Any, *, indent: int | None = 2, default: Callable[[Any], Any] | None = None) -> str:
    """
    A structure in JSON, which has no infinite numbers and no NaN: they become null.

    `default` turns values that JSON has no form for into others.
    """
    text = json.dumps(_without_infinity(content), ensure_ascii=False, indent=indent, allow_nan=False, default=default)
    return text + "\n"


def _without_infinity(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {name: _without_infinity(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_infinity(value) for value in content]
    return content


def write_json(path: Path, content: Any, *, default: Callable[[Any], Any] | None = None) -> None:
    """Replace a file by a structure in JSON, as `json_text` has it."""
    write_text(path, json_text(content, default=default))


def json_line(content: Any) -> str:
    """A structure as one line of a file of JSON lines."""
    return json_text(content, indent=None)


def append_json_line(path: Path, content: Any) -> None:
    """Add a line to a file of JSON lines; if the process is killed meanwhile, `read_json_lines` skips it."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json_line(content))


def check_output_file(path: Path | str) -> None:
    """Raise a `StorageError` if no file can be written at `path`, the value of --output-file."""
    file = Path(path)
    if file.is_dir():
        raise StorageError(f"--output-file {path} is a folder. Give the name of a file.")
    # A device or a pipe is written into; any other file is replaced, and a link stays a link, as in `whole_file`.
    is_replaced = file.is_file() or not file.exists()
    if is_replaced and not file.resolve().parent.is_dir():
        raise StorageError(f"There is no folder {file.parent} for --output-file {path}.")
    if not os.access(file.resolve().parent if is_replaced else file, os.W_OK):
        raise StorageError(f"--output-file {path} cannot be written: this user may not write there. Give another.")


def check_output_folder(path: Path | str) -> None:
    """Raise a `StorageError` if no folder can be written at `path`, the value of --output-dir."""
    there = next(each for each in [Path(path), *Path(path).absolute().parents] if each.exists())
    if not there.is_dir():
        which = "" if there == Path(path) else f" cannot be made: {there}"
        raise StorageError(f"--output-dir {path}{which} is a file; give a folder that is new or empty.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise StorageError(f"--output-dir {path} cannot be written: this user may not write into {there}.")


def check_new_or_empty(path: Path | str) -> None:
    """Raise a `StorageError` unless a folder can be written at `path`: the value of --output-dir."""
    check_output_folder(path)
    folder = Path(path)
    if folder.is_dir() and any(folder.iterdir()):
        raise StorageError(f"--output-dir {path} is not empty; give a folder that is new or empty.")


@contextlib.contextmanager
def whole_folder(path: Path | str) -> Iterator[Path]:
    """
    Give a temporary folder to write into; it becomes `path` at the end, and is removed after an error.

    Raises a `StorageError` if `path` is not empty or cannot be written.
    """
    check_new_or_empty(path)
    # A link stays a link: the folder behind it is replaced.
    folder = Path(path).resolve()
    partial = temporary_name(folder)
    new_parents = [parent for parent in folder.parents if not parent.exists()]
    try:
        partial.mkdir(parents=True)
        yield partial
        flush(partial)
        if folder.is_dir():
            folder.rmdir()
        partial.rename(folder)
        _fsync(folder.parent)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in new_parents:
            with contextlib.suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError | SafetensorError):
            raise StorageError(f"{path} could not be written, and nothing is left: {first_line(error)}") from error
        raise


def temporary_name(path: Path) -> Path:
    """A name of this process's own, in the same folder: a rename is atomic only within one file system."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def replace_folder(partial: Path, folder: Path) -> None:
    """Rename a complete folder to its place, and remove the folder that was there."""
    # No system call replaces a folder that is not empty: the old one gets another name first.
    outdated = folder.with_name(f"{folder.name}.outdated")
    remove_folder(outdated)
    if folder.exists():
        os.replace(folder, outdated)
    os.replace(partial, folder)
    _fsync(folder.parent)
    remove_folder(outdated)


def remove_folder(folder: Path) -> None:
    """Remove a folder, as far as that is possible; of a link to a folder the link alone."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def remove_together(paths: Sequence[Path], waiting: Path) -> None:
    """
    Remove files, folders and links of one folder: all of them or, after a `StorageError`, none.

    They wait in the new folder `waiting` until the last is there. What links lead to stays.
    """
    waiting.mkdir()
    moved: list[Path] = []
    try:
        for path in paths:
            os.replace(path, waiting / path.name)
            moved.append(path)
    except OSError as error:
        for each in moved:
            os.replace(waiting / each.name, each)
        waiting.rmdir()
        raise StorageError(f"{path} cannot be removed ({error.strerror}), and nothing was removed.") from error
    shutil.rmtree(waiting)


def flush(path: Path) -> None:
    """Wait until a file, or a folder that was made to be written, with everything in it, is on the disk."""
    if path.is_dir():
        for file in path.rglob("*.safetensors"):
            # Its writer allows only the owner: a server of another user would be told that there is no such file.
            file.chmod(stat.S_IMODE(path.stat().st_mode) & 0o666)
    for part in [*files_in(path), path] if path.is_dir() else [path]:
        _fsync(part)


def _fsync(path: Path) -> None:
    # Windows flushes only what is open for writing, and cannot open folders.
    mode = os.O_RDWR if path.is_file() and os.access(path, os.W_OK) else os.O_RDONLY
    with contextlib.suppress(PermissionError, IsADirectoryError):
        descriptor = os.open(path, mode)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def files_in(folder: Path) -> list[Path]:
    """The files of a folder and of the folders in it, in the order of their names."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]
