"""One record of the data, as all formats give it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Row:
    """
    One record of the data.

    `number` is what an editor or a spreadsheet shows: the line a record starts on, or its place in a list, from 1.
    `content` is the record as the file has it; with a `problem` there are no `fields`.
    """

    file: str
    number: int
    content: Any
    fields: Mapping[str, Any]
    problem: str | None = None
