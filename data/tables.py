"""Tables of text: which separator a file has, its records, and the rows under its header."""

import contextlib
import csv
import io
import itertools
import logging
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .columns import PAIR, are_usual
from .messages import DataError
from .rows import Row
from .text import undecodable

logger = logging.getLogger(__name__)

SEPARATORS = {".csv": ",;\t", ".tsv": "\t,;"}
"""The separators that a file may have by its ending, the usual one first."""

_RECORDS_TRIED = 100
_LINES_IN_QUOTES = 1000
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Record:
    """The fields of one record, the number of its first line, and its problem if it has one."""

    number: int
    content: Any
    fields: Sequence[Any]
    problem: str | None = None


def table_rows(file: str, records: Iterable[Record]) -> tuple[list[str], list[Row]]:
    """The column names, which the first record holds, and a row of each further record."""
    rows: list[Row] = []
    columns: list[str] | None = None
    repeated: list[int] = []
    for record in records:
        if columns is None:
            columns = _header(file, record)
            continue
        problem = record.problem
        if problem is None and len(record.fields) == len(columns) and _name(record.fields[0]) in columns:
            names = [_name(field) for field in record.fields]
            if names == columns:
                repeated.append(record.number)
                continue
            if sorted(names) == sorted(columns):
                raise DataError(
                    f"{file}, row {record.number}: a second header, with the columns in another order, as if two files "
                    "were joined. Join them column by column."
                )
        if problem is None and len(record.fields) != len(columns):
            number = len(record.fields)
            found = "there is 1 field" if number == 1 else f"there are {number} fields"
            problem = f"{found}, and the header names {len(columns)}"
        fields = {} if problem else dict(zip(columns, record.fields, strict=True))
        rows.append(Row(file=file, number=record.number, content=record.content, fields=fields, problem=problem))
    if repeated:
        shown = ", ".join(map(str, repeated[:5])) + (", …" if len(repeated) > 5 else "")
        rows_are = f"1 row ({shown}), which is" if len(repeated) == 1 else f"{len(repeated)} rows ({shown}), which are"
        logger.warning("%s: the header is repeated in %s left out.", file, rows_are)
    return columns or [], rows


def _name(field: Any) -> str:
    return unicodedata.normalize("NFC", str(field)).strip()


def _header(file: str, record: Record) -> list[str]:
    columns = [_name(field) for field in record.fields]
    problem = record.problem
    # Spreadsheets leave empty columns without a name; only a name may not occur twice.
    names = [column for column in columns if column]
    if problem is None and len(set(names)) < len(names):
        problem = "two columns have the same name"
    if problem is not None:
        raise DataError(f"{file}, row {record.number}, the header: {problem}. Fix it.")
    return columns


def csv_rows(file: str, text: str, encoding: str, separators: str) -> tuple[list[str], list[Row]]:
    """The column names and the rows of a table in text, with the one of `separators` that its records have."""
    lines = list(io.StringIO(text, newline=""))
    with _fields_of_any_length(text):
        first = next((index for index, line in enumerate(lines) if line.strip("\r\n")), 0)
        named = _SEPARATOR_LINE.fullmatch(lines[first])
        if named:
            # Excel writes and reads this line; it is no record.
            first += 1
        separator = named[1] if named else max(separators, key=lambda one: _num_fitting(lines, first, one))
        return table_rows(file, _records(lines, first, separator, encoding))


def tabbed_rows(file: str, text: str, encoding: str) -> tuple[list[str], list[Row]]:
    """
    The column names and the rows of a text with a tab in each line.

    Its first line is a header if it has the usual names. If the columns have no names, two are question
    and answer, and more are numbered from 1.
    """
    lines = list(io.StringIO(text, newline=""))
    first = next((index for index, line in enumerate(lines) if line.strip("\r\n")), 0)
    if "\t" not in lines[first]:
        raise DataError(
            f"{file}, row {first + 1}: no tab. One file of plain text needs one in each line, between the question and "
            "the answer; or pass two files, whose lines are questions and answers."
        )
    names = lines[first].rstrip("\r\n").split("\t")
    with _fields_of_any_length(text):
        records = _records(lines, first, "\t", encoding)
        if not are_usual(names):
            names = list(PAIR) if len(names) == 2 else [str(number) for number in range(1, len(names) + 1)]
            records = itertools.chain([Record(number=first + 1, content=names, fields=names)], records)
        return table_rows(file, records)


@contextlib.contextmanager
def _fields_of_any_length(text: str) -> Iterator[None]:
    limit = csv.field_size_limit()
    csv.field_size_limit(max(limit, len(text)))
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _num_fitting(lines: Sequence[str], first: int, separator: str) -> int:
    """How many of the first records have as many fields as the header, which must have several."""
    records = list(itertools.islice(_records(lines, first, separator, "utf-8"), _RECORDS_TRIED))
    width = len(records[0].fields) if records else 0
    return sum(len(record.fields) == width for record in records) if width > 1 else 0


def _records(lines: Sequence[str], first: int, separator: str, encoding: str) -> Iterator[Record]:
    read = _tabbed_records(lines, first) if separator == "\t" else _quoted_records(lines, first, separator)
    for begin, end, fields, problem in read:
        content = "".join(lines[begin:end]).rstrip("\r\n")
        problem = undecodable(content, encoding) or problem
        if fields or problem is not None:
            yield Record(number=begin + 1, content=content, fields=fields, problem=problem)


_Lines = tuple[int, int, list[str], str | None]
"""The index of a record's first line, the index after its last line, its fields, and its problem if it has one."""


def _quoted_records(lines: Sequence[str], begin: int, separator: str) -> Iterator[_Lines]:
    """
    Yield the records of CSV, where a field that begins with a quotation mark goes on to the next one.

    A broken quote costs one line, not everything up to the next quote.
    """
    while begin < len(lines):
        reader = csv.reader(map(lines.__getitem__, range(begin, len(lines))), delimiter=separator, strict=True)
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


def _tabbed_records(lines: Sequence[str], begin: int) -> Iterator[_Lines]:
    """
    Yield the records of TSV, where a quotation mark is an ordinary character unless a field begins and ends with one.

    Only where a line has another number of fields than the header may tabs and line ends be in quotes.
    """
    width: int | None = None
    while begin < len(lines):
        line = lines[begin].rstrip("\r\n")
        fields = [_unquoted(field) for field in line.split("\t")] if line else []
        end = begin + 1
        if width is None:
            width = len(fields) or None
        elif fields and len(fields) != width:
            end, fields = _in_quotes(lines, begin, width) or (end, fields)
        yield begin, end, fields, None
        begin = end


def _unquoted(field: str) -> str:
    inner = field[1:-1]
    # A quotation mark in quotes is written twice; `"Stop," he said, "now."` is not in quotes.
    if len(field) < 2 or not field[0] == field[-1] == '"' or '"' in inner.replace('""', ""):
        return field
    return inner.replace('""', '"')


def _in_quotes(lines: Sequence[str], begin: int, width: int) -> tuple[int, list[str]] | None:
    """The index after a record that is read with quotes, and its fields; None unless there are `width` of them."""
    last = min(len(lines), begin + _LINES_IN_QUOTES)
    reader = csv.reader(map(lines.__getitem__, range(begin, last)), delimiter="\t", strict=True)
    try:
        fields = next(reader)
    except csv.Error:
        return None
    return (begin + reader.line_num, fields) if len(fields) == width else None
