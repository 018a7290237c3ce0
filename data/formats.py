"""From text, or an Arrow table, to rows: CSV, TSV, JSON, JSON Lines, Parquet, datasets and parallel text files."""

import csv
import io
import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arrow import CONVERSATIONS_AT_ONCE, are_few
from .fetching import local_path, read_bytes, suffix_of
from .messages import DataError
from .text import decode, undecodable

if TYPE_CHECKING:
    import datasets


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


def _csv_records(lines: Sequence[str], delimiter: str) -> Iterator[tuple[int, int, list[str], str | None]]:
    """
    Yield the index of a record's first line, the index after its last line, its fields, and its problem if it has one.

    A broken quote costs one line, not everything up to the next quote.
    """
    begin = 0
    while begin < len(lines):
        reader = csv.reader(map(lines.__getitem__, range(begin, len(lines))), delimiter=delimiter, strict=True)
        opened = begin
        try:
            for fields in reader:
                end = opened + reader.line_num
                yield begin, end, fields, None
                begin = end
        except csv.Error:
            problem = (
                "a quotation mark is not closed, or one inside a quoted field is not written twice, as it has to be"
            )
            yield begin, begin + 1, [], problem
            begin += 1


def _csv_rows(file: str, text: str, encoding: str, delimiter: str) -> tuple[list[str], list[Row]]:
    lines = list(io.StringIO(text, newline=""))
    rows: list[Row] = []
    columns: list[str] | None = None
    field_size_limit = csv.field_size_limit()
    csv.field_size_limit(max(field_size_limit, len(text)))
    try:
        for begin, end, fields, problem in _csv_records(lines, delimiter):
            content = "".join(lines[begin:end]).rstrip("\r\n")
            problem = undecodable(content, encoding) or problem
            if not fields and problem is None:
                continue
            if columns is None:
                columns = [unicodedata.normalize("NFC", field).strip() for field in fields]
                # Spreadsheets leave empty columns without a name; only a name may not occur twice.
                names = [column for column in columns if column]
                if problem is None and len(set(names)) < len(names):
                    problem = "two columns have the same name"
                if problem is not None:
                    raise DataError(f"{file}, row {begin + 1}, the header: {problem}. Fix it.")
                continue
            if problem is None and len(fields) != len(columns):
                problem = f"there are {len(fields)} fields, and the header names {len(columns)}"
            row_fields = {} if problem else dict(zip(columns, fields, strict=True))
            rows.append(Row(file=file, number=begin + 1, content=content, fields=row_fields, problem=problem))
    finally:
        csv.field_size_limit(field_size_limit)
    return columns or [], rows


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
        hint = " If it has one record a line, name it .jsonl." if error.msg == "Extra data" else " Fix it."
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
    return _json_columns(rows), rows


def text_rows(file: str, path: Path, encoding: str | None) -> tuple[list[str], list[Row]]:
    """The column names and the rows of a CSV, TSV, JSON or JSON Lines file."""
    text, encoding = decode(file, read_bytes(file, path), encoding)
    match suffix_of(file):
        case ".csv":
            return _csv_rows(file, text, encoding, ",")
        case ".tsv":
            return _csv_rows(file, text, encoding, "\t")
        case ".json":
            return _json_rows(file, text, encoding)
        case _:
            return _json_lines_rows(file, text, encoding)


def parallel_rows(files: Sequence[str], encoding: str | None) -> tuple[list[str], list[Row]]:
    """The column names, and rows of a question from the first file and the answer in the same line of the second."""
    columns = ["question", "answer"]
    sides = []
    for file in files:
        text, used = decode(file, read_bytes(file, local_path(file, sha256=None)), encoding)
        # Not splitlines, which counts other lines than editors and line-by-line tools do.
        lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
        sides.append([(line, undecodable(line, used)) for line in lines])
    questions, answers = sides
    if len(questions) != len(answers):
        raise DataError(
            f"{files[0]} has {len(questions)} lines and {files[1]} has {len(answers)}. In parallel files line i of "
            "the second answers line i of the first: fix them so that both have the same number."
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
            # In a file of the cache, whose rows come into memory only when they are read. With its default options the
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
    for number, record in enumerate(dataset.with_format(None), start=1):
        yield Row(file=name, number=number, content=record, fields=record)
