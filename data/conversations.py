"""
Conversations from a user's data, whatever it looks like, in one form.

They are a `datasets.Dataset` with the one column `messages`, each a list of {"role": "system" | "user" | "assistant",
"content": str} in which user and assistant speak in turn. No row is dropped in silence: one that cannot be read so
stops the loading, or is returned among the bad rows.
"""

import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chatformer.conversation import Message

from .arrow import as_dataset
from .bad_rows import BadRow, BadRows
from .columns import Columns, choose_columns
from .fetching import TABLE_SUFFIXES, is_hub_id, load_from_hub, local_path, suffix_of
from .formats import Row, dataset_rows, parallel_rows, parquet_dataset, text_rows
from .messages import DataError, NotAConversation, clean_messages, clean_text

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The conversations of some data, and its rows that are none."""

    conversations: "datasets.Dataset"
    bad_rows: BadRows


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


def _open_dataset(
    name: str, dataset: "datasets.Dataset | datasets.IterableDataset", files: Sequence[str] = ()
) -> _Source:
    # A stream may know its columns only from its first row.
    columns = dataset.column_names or list(next(iter(dataset), {}))
    return _Source(name=name, columns=columns, files=files, dataset=dataset)


def _open_file(file: str, *, encoding: str | None, sha256: str | None) -> _Source:
    path = local_path(file, sha256=sha256)
    suffix = suffix_of(file)
    if suffix not in TABLE_SUFFIXES:
        raise DataError(
            f"{file}: files that can be read end in {', '.join(TABLE_SUFFIXES)}, or have .gz behind it. Save it as "
            "one of these, or pass two files of plain text, whose lines are questions and answers."
        )
    if suffix == ".parquet":
        return _open_dataset(file, parquet_dataset(file, path), [file])
    columns, rows = text_rows(file, path, encoding)
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
    data: Any, *, encoding: str | None, split: str, revision: str | None, sha256: str | None, streaming: bool
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
    if len(files) == 1:
        return _open_file(files[0], encoding=encoding, sha256=sha256)
    return _open_parallel_files(files, encoding=encoding, sha256=sha256)


def _no_conversations(name: str) -> DataError:
    return DataError(f"{name} has no conversations. Pass data with at least one.")


def _conversation(row: Row, columns: Columns) -> list[Message]:
    if row.problem is not None:
        raise NotAConversation(row.problem)
    if columns.messages is not None:
        return clean_messages(row.fields.get(columns.messages))
    assert columns.question is not None and columns.answer is not None
    return [
        {"role": "user", "content": clean_text(row.fields.get(columns.question), "the question")},
        {"role": "assistant", "content": clean_text(row.fields.get(columns.answer), "the answer")},
    ]


def load_conversations(
    data: "str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | datasets.Dataset | datasets.DatasetDict | "
    "datasets.IterableDataset",
    *,
    question_column: str | None = None,
    answer_column: str | None = None,
    messages_column: str | None = None,
    encoding: str | None = None,
    split: str = "train",
    revision: str | None = None,
    sha256: str | None = None,
    skip_bad_rows: bool = False,
    streaming: bool = False,
    max_rows: int | None = None,
) -> Loaded:
    """
    Load the conversations of `data`.

    `data` is a CSV, TSV, JSON, JSON Lines (each also with .gz) or Parquet file, a URL of one, the id of a dataset on
    the Hub, a dataset, or two files of plain text, where each line of the second answers that line of the first.
    `split` picks from a Hub dataset or a DatasetDict, `revision` from a Hub dataset's versions. With `streaming` a Hub
    dataset is read row by row, without a copy of its files. Columns are found by their usual names unless named; the
    encoding of text is detected unless given. At most the first `max_rows` rows are read.

    Raises a `DataError` if the data is not available or cannot be read, and for rows that are no conversation. With
    `skip_bad_rows` those are returned beside the conversations; if no row is left, it is an error all the same.
    """
    source = _open_source(data, encoding=encoding, split=split, revision=revision, sha256=sha256, streaming=streaming)
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
    )
    logger.info("%s: reading %s of the columns %s.", source.name, columns.names(), list(source.columns))

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
