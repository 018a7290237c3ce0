"""
Conversations in one form, from a user's data in any of many forms.

They are a `datasets.Dataset` with the one column `messages`, each a list of {"role": "system" | "user" | "assistant",
"content": str} in which user and assistant speak in turn. No row is dropped silently: a row that is not a conversation
stops the loading, or is returned among the bad rows.
"""

import dataclasses
import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatformer.conversation import Message
from chatformer.storage.bars import datasets_bars

from .arrow import CONVERSATIONS_AT_ONCE, as_dataset
from .bad_rows import BadRow, BadRows
from .columns import Columns, choose_columns, is_of_pictures, translation_column
from .fetching import TABLE_SUFFIXES, is_hub_id, load_from_hub, local_path, suffix_of
from .formats import dataset_rows, file_rows, parallel_rows, parquet_dataset
from .messages import DataError, NotAConversation, clean_messages, clean_text, optional_text, with_system
from .pictures import rows_with_pictures
from .prose import DataFormat, books_of, passages_of
from .rows import Row

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

_ROWS_TRIED = 100
"""The number of rows that are searched for the languages of a translation."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The conversations of the data, and the rows that are not conversations."""

    conversations: "datasets.Dataset"
    bad_rows: BadRows
    sizes: tuple[int, ...] = ()
    """If they are those of several names, how many conversations are of each."""
    times: tuple[int, ...] = ()
    """How often an epoch reads those of each name, if that is not once."""


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Opened data: rows that were read from text, or a dataset whose rows are read once the columns are known."""

    name: str
    columns: Sequence[str]
    files: Sequence[str] = ()
    rows: Sequence[Row] = ()
    dataset: "datasets.Dataset | datasets.IterableDataset | None" = None

    def read(self, columns: Columns) -> Iterable[Row]:
        if self.dataset is None:
            return self.rows
        # Other columns may hold images or sound, which need not be decoded, or cannot be.
        return dataset_rows(self.name, self.dataset.select_columns(columns.names()))

    def with_pictures(self, columns: Columns) -> "_Source":
        """The same data with the text of each picture in place of its file's name."""
        rows = self.rows
        for name in (columns.question, columns.answer):
            if name is not None and is_of_pictures(name) and rows:
                rows = rows_with_pictures(rows, name, Path(self.files[0]).expanduser().parent)
        return dataclasses.replace(self, rows=rows)

    def translation_keys(self) -> Sequence[str]:
        """The languages of a column `translation`, in the order of the first row."""
        column = translation_column(self.columns)
        if column is None:
            return ()
        rows = itertools.islice(self.read(Columns(messages=column)), _ROWS_TRIED)
        values = (row.fields.get(column) for row in rows)
        return list(next((value for value in values if isinstance(value, Mapping)), {}))

    def num_unread(self, columns: Columns) -> dict[str, int | None]:
        """The number of rows in which each unread column holds something; None for a stream, which is not counted."""
        if self.dataset is None:
            return {name: sum(bool(row.fields.get(name)) for row in self.rows) for name in columns.unread}
        return {name: _num_filled(self.dataset, name) for name in columns.unread}


def _num_filled(dataset: "datasets.Dataset | datasets.IterableDataset", column: str) -> int | None:
    import datasets

    if isinstance(dataset, datasets.IterableDataset):
        return None
    # As Arrow, so that nothing is decoded.
    tables = dataset.select_columns([column]).with_format("arrow").iter(batch_size=CONVERSATIONS_AT_ONCE)
    return sum(bool(value.as_py()) for table in tables for value in table[column])


def _open_dataset(
    name: str, dataset: "datasets.Dataset | datasets.IterableDataset", files: Sequence[str] = ()
) -> _Source:
    # A stream may know its columns only from its first row.
    columns = dataset.column_names or list(next(iter(dataset), {}))
    return _Source(name=name, columns=columns, files=files, dataset=dataset)


def _open_file(file: str, *, encoding: str | None, sheet: str | None, sha256: str | None) -> _Source:
    path = local_path(file, sha256=sha256)
    suffix = suffix_of(file)
    if suffix not in (*TABLE_SUFFIXES, ".txt"):
        raise DataError(
            f"{file}: files that can be read end in {', '.join(TABLE_SUFFIXES)}, with or without .gz. Save it as one "
            "of these, or as .txt with a tab between question and answer, or pass two files of plain text, whose "
            "lines are questions and answers."
        )
    if suffix == ".parquet":
        return _open_dataset(file, parquet_dataset(file, path), [file])
    columns, rows = file_rows(file, path, encoding=encoding, sheet=sheet)
    return _Source(name=file, columns=columns, files=[file], rows=rows)


def _open_parallel_files(files: Sequence[str], *, encoding: str | None, sha256: str | None) -> _Source:
    if len(files) != 2 or any(suffix_of(file) in TABLE_SUFFIXES for file in files):
        raise DataError(
            f"Found {len(files)} files: {', '.join(files)}. Pass one file of conversations, or two of plain text, the "
            "questions and the answers, line by line."
        )
    if sha256 is not None:
        raise DataError("A sha256 is of one file, and two were passed. Leave it out, or pass one file.")
    columns, rows = parallel_rows(files, encoding)
    return _Source(name=" and ".join(files), columns=columns, files=files, rows=rows)


def _open_source(
    data: Any,
    *,
    encoding: str | None,
    sheet: str | None,
    split: str,
    revision: str | None,
    sha256: str | None,
    streaming: bool,
) -> _Source:
    import datasets

    if isinstance(data, datasets.Dataset | datasets.IterableDataset):
        return _open_dataset("the dataset", data)
    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            raise DataError(f"The dataset has no split {split!r}; its splits are {', '.join(data)}. Pass one of them.")
        return _open_dataset(f"the dataset's split {split!r}", data[split])
    if not isinstance(data, str | os.PathLike | Sequence):
        raise TypeError(f"Expected paths, a datasets.Dataset or a DatasetDict, and found {type(data).__name__}.")
    files = [os.fspath(file) for file in ([data] if isinstance(data, str | os.PathLike) else data)]
    if len(files) == 1 and is_hub_id(files[0]):
        if sha256 is not None:
            raise DataError(f"{files[0]} is a dataset of the Hub, which has no sha256. Pin it with a revision.")
        return _open_dataset(files[0], load_from_hub(files[0], split=split, revision=revision, streaming=streaming))
    if revision is not None:
        logger.warning("The revision %s is not used: only datasets of the Hub have revisions.", revision)
    if split != "train":
        logger.warning("The split %s is not used: only datasets of the Hub have splits.", split)
    if streaming:
        logger.warning("Files are not streamed: only datasets of the Hub are.")
    suffixes = {suffix_of(file) for file in files}
    if sheet is not None and ".xlsx" not in suffixes:
        logger.warning("The sheet %s is not used: only Excel files have sheets.", sheet)
    if encoding is not None and suffixes & {".xlsx", ".parquet"}:
        logger.warning("The encoding %s is not used: only text has an encoding.", encoding)
    if len(files) == 1:
        return _open_file(files[0], encoding=encoding, sheet=sheet, sha256=sha256)
    return _open_parallel_files(files, encoding=encoding, sha256=sha256)


def _files(data: Any) -> list[str]:
    """The names of files, or the id of a dataset on the Hub; empty for a dataset."""
    if isinstance(data, str | os.PathLike):
        return [os.fspath(data)]
    return [os.fspath(file) for file in data] if isinstance(data, list | tuple) else []


def _no_conversations(name: str) -> DataError:
    return DataError(f"{name} has no conversations. Pass data with at least one.")


def _conversation(row: Row, columns: Columns) -> list[Message]:
    if row.problem is not None:
        raise NotAConversation(row.problem)
    system = None if columns.system is None else row.fields.get(columns.system)
    if columns.messages is not None:
        return clean_messages(row.fields.get(columns.messages), system)
    return with_system(_pair(row.fields, columns), system)


def _pair(fields: Mapping[str, Any], columns: Columns) -> list[Message]:
    texts = fields if columns.translation is None else fields.get(columns.translation)
    if not isinstance(texts, Mapping):
        raise NotAConversation(f"the {columns.translation} is no object with a text in each language")
    assert columns.question is not None and columns.answer is not None
    question = clean_text(texts.get(columns.question), "the question")
    if columns.context is not None:
        context = optional_text(fields.get(columns.context), f"the {columns.context}")
        question = f"{question}\n\n{context}" if context else question
    answer = clean_text(texts.get(columns.answer), "the answer")
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _warn_of_unread(name: str, num_unread: Mapping[str, int | None]) -> None:
    """Warn of columns that hold something and are not read, although an answer may depend on them."""
    filled = [
        f"{column} (not counted in a stream)" if count is None else f"{column} ({count:,} rows)"
        for column, count in num_unread.items()
        if count != 0
    ]
    if filled:
        logger.warning("%s: not read, although answers may depend on it: the columns %s.", name, ", ".join(filled))


@datasets_bars()
def load_conversations(
    data: "str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | datasets.Dataset | datasets.DatasetDict | "
    "datasets.IterableDataset",
    *,
    question_column: str | None = None,
    answer_column: str | None = None,
    messages_column: str | None = None,
    system_column: str | None = None,
    context_column: str | None = None,
    encoding: str | None = None,
    sheet: str | None = None,
    data_format: DataFormat | None = None,
    split: str = "train",
    revision: str | None = None,
    sha256: str | None = None,
    skip_bad_rows: bool = False,
    streaming: bool = False,
    max_rows: int | None = None,
) -> Loaded:
    """
    Load the conversations of `data`.

    `data` is a CSV, TSV, JSON, JSON Lines (each also with .gz), Excel or Parquet file, a .txt with a tab between
    question and answer, the URL of such a file, the id of a dataset on the Hub, a dataset, or two files of plain text,
    where each line of the second file answers the same line of the first. A .txt without tabs is prose, as are three
    and more, or what `data_format` says; its conversations have a column with the key of their chapter.
    `split` is that of a Hub dataset or a DatasetDict, `revision` that of a Hub dataset. With `streaming` a Hub
    dataset is read row by row, without a copy of its files. Columns are found by their usual names unless named; a
    system message becomes the first message, and a context, such as the input of an instruction, the end of the
    question. The encoding of text is detected unless given, and of an Excel file the first sheet is read unless `sheet`
    names another. At most the first `max_rows` rows are read.

    Raises a `DataError` if the data is not available or cannot be read, or if a row is not a conversation. With
    `skip_bad_rows` such rows are returned together with the conversations; it is an error only if no other row is left.
    """
    books = books_of(_files(data), data_format, encoding=encoding, sha256=sha256)
    if books:
        conversations, unread = passages_of(books, max_rows=max_rows, is_given=data_format is not None)
        if unread and not (skip_bad_rows and len(conversations)):
            raise unread.error()
        return Loaded(conversations=conversations, bad_rows=unread)
    source = _open_source(
        data, encoding=encoding, sheet=sheet, split=split, revision=revision, sha256=sha256, streaming=streaming
    )
    if not source.columns and not source.rows:
        raise _no_conversations(source.name)
    broken = [BadRow.of(row, row.problem) for row in source.rows if row.problem is not None]
    if source.rows and len(broken) == len(source.rows):
        raise BadRows(rows=broken, num_rows=len(broken)).error()
    columns = choose_columns(
        source.columns,
        source.name,
        question_column=question_column,
        answer_column=answer_column,
        messages_column=messages_column,
        system_column=system_column,
        context_column=context_column,
        translation_keys=source.translation_keys(),
    )
    source = source.with_pictures(columns)
    logger.info("%s: reading %s of the columns %s.", source.name, columns.names(), list(source.columns))
    _warn_of_unread(source.name, source.num_unread(columns))

    bad_rows: list[BadRow] = []

    def good_rows() -> Iterator[list[Message]]:
        for row in itertools.islice(source.read(columns), max_rows):
            try:
                yield _conversation(row, columns)
            except NotAConversation as reason:
                bad_rows.append(BadRow.of(row, str(reason)))

    conversations = as_dataset(good_rows())
    result = Loaded(
        conversations=conversations,
        bad_rows=BadRows(rows=bad_rows, num_rows=len(conversations) + len(bad_rows), files=source.files),
    )
    if result.bad_rows.num_rows == 0:
        raise _no_conversations(source.name)
    if bad_rows and not (skip_bad_rows and len(conversations)):
        raise result.bad_rows.error()
    return result
