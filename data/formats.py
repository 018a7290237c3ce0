"""From a file, or an Arrow table, to rows: tables, Excel, JSON, JSON Lines, Parquet, datasets and plain text."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatformer.storage.explaining import counted

from .arrow import CONVERSATIONS_AT_ONCE, are_few, records
from .columns import PAIR
from .fetching import local_path, read_bytes, suffix_of
from .messages import DataError
from .rows import Row
from .spreadsheets import spreadsheet_records
from .tables import SEPARATORS, csv_rows, tabbed_rows, table_rows
from .text import decode, undecodable

if TYPE_CHECKING:
    import datasets


def _json_row(file: str, number: int, content: Any, record: Any) -> Row:
    if isinstance(record, list):
        record = {"messages": record}
    if not isinstance(record, dict):
        problem = "the record is neither an object nor a list of messages"
        return Row(file=file, number=number, content=content, fields={}, problem=problem)
    return Row(file=file, number=number, content=content, fields=record)


def _json_columns(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.fields))


def _json_rows(file: str, text: str, encoding: str) -> tuple[list[str], list[Row]]:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        hint = " Fix it."
        if error.msg == "Extra data":
            hint = " If it has one record a line, name it .jsonl; if files were joined, make one list of theirs."
        raise DataError(
            f"{file}, row {error.lineno}, column {error.colno}: no valid JSON ({error.msg}).{hint}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: no usable JSON ({error}). Fix it.") from error
    lists = [document]
    if isinstance(document, dict):
        lists = [value for value in document.values() if isinstance(value, list) and value]
        lists = [value for value in lists if isinstance(value[0], dict | list)]
    if len(lists) != 1 or not isinstance(lists[0], list):
        raise DataError(
            f"{file}: one list of records was expected, and there are {len(lists) if document else 0}. Pass a list "
            "of records, a list of conversations, or an object with one such list in it."
        )
    rows = [_json_row(file, number, record, record) for number, record in enumerate(lists[0], start=1)]
    if undecodable(text, encoding):
        rows = [
            Row(file=file, number=row.number, content=row.content, fields={}, problem=problem)
            if (problem := undecodable(json.dumps(row.content, ensure_ascii=False), encoding))
            else row
            for row in rows
        ]
    return _json_columns(rows), rows


def _json_lines_rows(file: str, text: str, encoding: str) -> tuple[list[str], list[Row]]:
    rows = []
    # Not splitlines: it also splits at characters that a JSON string may contain, such as U+2028.
    for number, line in enumerate(text.split("\n"), start=1):
        content = line.strip()
        if not content:
            continue
        problem = undecodable(content, encoding)
        if problem is None:
            try:
                rows.append(_json_row(file, number, content, json.loads(content)))
                continue
            except (ValueError, RecursionError) as error:
                problem = f"no valid JSON ({error})"
        rows.append(Row(file=file, number=number, content=content, fields={}, problem=problem))
    if all(row.problem is not None for row in rows) and _is_json(text):
        raise DataError(f"{file} is one JSON document, not one record a line. Name it .json.")
    return _json_columns(rows), rows


def file_rows(file: str, path: Path, *, encoding: str | None, sheet: str | None) -> tuple[list[str], list[Row]]:
    """The column names and the rows of a file, unless it is Parquet."""
    suffix = suffix_of(file)
    content = read_bytes(file, path)
    if suffix == ".xlsx":
        return table_rows(file, spreadsheet_records(file, content, sheet))
    text, encoding = decode(file, content, encoding)
    match suffix:
        case ".csv" | ".tsv":
            _check_that_it_is_no_json(file, text)
            return csv_rows(file, text, encoding, SEPARATORS[suffix])
        case ".txt":
            return tabbed_rows(file, text, encoding)
        case ".json":
            return _json_rows(file, text, encoding)
        case _:
            return _json_lines_rows(file, text, encoding)


def _check_that_it_is_no_json(file: str, text: str) -> None:
    beginning = text.lstrip()
    if not beginning.startswith(("{", "[")):
        return
    for name, part in ((".json", text), (".jsonl", beginning.partition("\n")[0])):
        if _is_json(part):
            raise DataError(f"{file} is JSON, not a table. Name it {name}.")


def _is_json(text: str) -> bool:
    """True if the text is one JSON document."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def parallel_rows(files: Sequence[str], encoding: str | None) -> tuple[list[str], list[Row]]:
    """The column names, and rows of a question from the first file and the answer in the same line of the second."""
    columns = list(PAIR)
    sides = []
    for file in files:
        text, used = decode(file, read_bytes(file, local_path(file, sha256=None)), encoding)
        # Not splitlines: it ends lines at characters where editors and line-by-line tools do not.
        lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
        sides.append([(line, undecodable(line, used)) for line in lines])
    questions, answers = sides
    if len(questions) != len(answers):
        raise DataError(
            f"{files[0]} has {counted(len(questions), 'line')} and {files[1]} has {len(answers)}. In parallel files "
            "line i of the second answers line i of the first: fix them so that both have the same number; or pass "
            "--data-format prose if they are prose."
        )
    rows = []
    for number, ((question, no_question), (answer, no_answer)) in enumerate(zip(*sides, strict=True), start=1):
        content = dict(zip(columns, (question, answer), strict=True))
        # The file with the empty or broken line is the one to open and fix.
        file = files[1] if question.strip() and no_question is None else files[0]
        problem = no_question or no_answer
        rows.append(Row(file=file, number=number, content=content, fields={} if problem else content, problem=problem))
    return columns, rows


def parquet_dataset(file: str, path: Path) -> "datasets.Dataset":
    import datasets
    import pyarrow
    import pyarrow.dataset
    import pyarrow.parquet

    try:
        if not are_few(pyarrow.parquet.read_metadata(path).num_rows):
            # In a file of the cache, whose rows are loaded only when they are read. With its default options the
            # reader would load the entire file first.
            options = pyarrow.dataset.ParquetFragmentScanOptions(use_buffered_stream=True, pre_buffer=False)
            return datasets.Dataset.from_parquet(
                str(path), fragment_scan_options=options, writer_batch_size=CONVERSATIONS_AT_ONCE
            )
        return datasets.Dataset(datasets.table.InMemoryTable(pyarrow.parquet.read_table(path)))
    except (pyarrow.ArrowException, ValueError, OSError, datasets.exceptions.DatasetGenerationError) as error:
        raise DataError(
            f"{file} cannot be read as Parquet ({error}). Write it again, or pass another format."
        ) from error


def dataset_rows(name: str, dataset: "datasets.Dataset | datasets.IterableDataset") -> Iterator[Row]:
    for number, record in enumerate(records(dataset), start=1):
        yield Row(file=name, number=number, content=record, fields=record)
