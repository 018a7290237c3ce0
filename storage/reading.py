"""Read texts, structures and JSON lines, or say what is wrong with the file."""

import json
from pathlib import Path
from typing import Any

import yaml

from .explaining import StorageError, explained


def read_text(path: Path, name: str | None = None) -> str:
    """The text of a file in UTF-8; errors call the file `name`."""
    with explained(f"{name or path} could not be read"):
        return path.read_text("utf-8")


def read_structure(path: Path, name: str | None = None) -> dict[str, Any]:
    """The names and values of a JSON file, or of a YAML file by its ending; errors call the file `name`."""
    name = name or str(path)
    text = read_text(path, name)
    with explained(f"{name} could not be read"):
        content = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    if not isinstance(content, dict):
        raise StorageError(f"{name} must hold names and values, but it holds a {type(content).__name__}.")
    return content


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """
    The objects of a file with one on each line, up to the first incomplete line; none if there is no file.

    A process that is killed while it adds a line leaves an incomplete one at the end, perhaps with half a character.
    """
    if not path.is_file():
        return []
    with explained(f"{path} could not be read"):
        content = path.read_bytes()
    lines = []
    for text in content.split(b"\n"):
        if not text.strip():
            continue
        try:
            line = json.loads(text.decode("utf-8"))
        except (ValueError, RecursionError):
            break
        if not isinstance(line, dict):
            break
        lines.append(line)
    return lines
