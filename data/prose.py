"""
Plain text files as prose: each passage of a chapter becomes a conversation, its prompt and then its continuation.

The conversations have a second column, the key of their chapter, by which they are split: chapters are held out, and
no passage of them is learnt, not even as a prompt.
"""

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Literal

from chatformer.conversation import Message, turn
from chatformer.storage.explaining import counted

from .arrow import as_dataset
from .bad_rows import BadRow, BadRows
from .chapters import Chapter, chapters_of, without_repetitions
from .fetching import TABLE_SUFFIXES, local_path, read_bytes, suffix_of
from .messages import DataError
from .passages import passages
from .text import decode

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

DataFormat = Literal["pairs", "prose"]

CHAPTER = "chapter"
"""The column of conversations that are passages of prose."""


@dataclass(frozen=True, kw_only=True)
class Book:
    """A plain text file that was read."""

    file: str
    text: str
    encoding: str

    @classmethod
    def read(cls, file: str, content: bytes, *, encoding: str | None) -> "Book":
        """The text of a file; raise a `DataError` if it is none."""
        text, used = decode(file, content, encoding)
        return cls(file=file, text=text, encoding=used)


def is_prose(conversations: "datasets.Dataset") -> bool:
    """True if the conversations are passages of prose."""
    return CHAPTER in conversations.column_names


def books_of(
    files: Sequence[str], data_format: DataFormat | None, *, encoding: str | None, sha256: str | None
) -> list[Book]:
    """
    The files as books if they are prose; none if they are questions and answers, or tables.

    Files that end in .txt are prose if none has a tab in most of its lines, unless they are two, which are questions
    and answers line by line. A format that is given decides.
    """
    are_texts = bool(files) and all(suffix_of(file) == ".txt" for file in files)
    if data_format is None and are_texts and len(files) == 2:
        logger.warning(
            "%s and %s: read as questions and answers, line by line. Pass --data-format prose if they are prose.",
            *files,
        )
        return []
    if data_format == "pairs" or (data_format is None and not are_texts):
        return []
    tables = [file for file in files if suffix_of(file) in TABLE_SUFFIXES]
    if tables:
        raise DataError(f"--data-format prose is of plain text, and {tables[0]} is a table. Leave it out.")
    if sha256 is not None and len(files) != 1:
        raise DataError("A sha256 is of one file, and several were passed. Leave it out, or pass one file.")
    contents = [read_bytes(file, local_path(file, sha256=sha256)) for file in files]
    if data_format is None and any(map(has_tabs, contents)):
        return []
    return [Book.read(file, content, encoding=encoding) for file, content in zip(files, contents, strict=True)]


def has_tabs(content: bytes) -> bool:
    """True if most lines have a tab inside, between a question and its answer."""
    lines = [line.strip() for line in content.split(b"\n") if line.strip()]
    return 2 * sum(b"\t" in line for line in lines) >= len(lines)


def passages_of(books: Sequence[Book], *, max_rows: int | None, is_given: bool) -> tuple["datasets.Dataset", BadRows]:
    """The passages of books as conversations, and the lines that could not be read; says how the files were read."""
    chapters: list[Chapter] = []
    bad_rows: list[BadRow] = []
    for book in books:
        found, unread = chapters_of(book.file, book.text, book.encoding)
        chapters += found
        bad_rows += [BadRow.of(row, row.problem or "") for row in unread]
    chapters, num_repeated = without_repetitions(chapters)
    keys: list[str] = []

    def conversations() -> Iterator[list[Message]]:
        for key, conversation in itertools.islice(_conversations(chapters), max_rows):
            keys.append(key)
            yield conversation

    dataset = as_dataset(conversations())
    if not len(dataset) and not bad_rows:
        raise DataError(f"{' and '.join(book.file for book in books)} has no passage of two sentences or more.")
    logger.warning(
        "%s: read as prose, %s of %s%s.%s",
        ", ".join(book.file for book in books),
        counted(len(dataset), "passage"),
        counted(len(chapters), "chapter"),
        f", without {counted(num_repeated, 'repeated line')}" if num_repeated else "",
        "" if is_given else " Pass --data-format pairs for questions and answers, with a tab between them.",
    )
    return (
        dataset.add_column(CHAPTER, keys),
        BadRows(rows=bad_rows, num_rows=len(dataset) + len(bad_rows), files=[book.file for book in books]),
    )


def _conversations(chapters: Sequence[Chapter]) -> Iterator[tuple[str, list[Message]]]:
    for chapter in chapters:
        # So that the passages of a chapter do not depend on what else is read.
        chance = Random(chapter.key)
        for run in chapter.runs:
            for begin, cut, end in passages(run, chance):
                yield chapter.key, [turn("user", run[begin:cut]), turn("assistant", run[cut:end])]
