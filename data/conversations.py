"""
Conversations from a user's data: from a file's bytes to rows, from rows to checked lists of messages.

Whatever the data looks like, what comes out has one form: a `datasets.Dataset` with the one column `messages`, each
a list of {"role": "system" | "user" | "assistant", "content": str} in which user and assistant speak in turn. A row
that cannot be read so is never dropped in silence: it stops the loading, or it is written to a file of bad rows.
"""

import atexit
import codecs
import csv
import difflib
import encodings.aliases
import gzip
import hashlib
import io
import itertools
import json
import logging
import math
import os
import re
import shutil
import tempfile
import unicodedata
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import numpy as np

if TYPE_CHECKING:
    import datasets
    import pyarrow

logger = logging.getLogger(__name__)

Message = dict[str, str]

CONVERSATIONS_IN_MEMORY = 100_000
"""Where there are more, they are kept in a file, of which only what is looked at comes into memory."""
CONVERSATIONS_AT_ONCE = 10_000
"""So many are written to the file, or read from it, at a time."""


class DataError(ValueError):
    """Tell a user which file and row of the data cannot be used, why, and what to do."""


class _BadRow(Exception):
    """Carry the reason why one row cannot become a conversation."""


@dataclass(frozen=True, kw_only=True)
class _Row:
    """
    Hold one record as it was found.

    `number` is what an editor or a spreadsheet shows: the line a record starts on, or its place in a list, from 1.
    `content` is the record as the file has it; with a `problem` there are no `fields`.
    """

    file: str
    number: int
    content: Any
    fields: Mapping[str, Any]
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """Name the columns to read: either `messages`, or `question` and `answer`."""

    question: str | None = None
    answer: str | None = None
    messages: str | None = None

    def names(self) -> list[str]:
        return [name for name in (self.question, self.answer, self.messages) if name is not None]


_TABLE_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def _suffix(file: str) -> str:
    path = urlparse(file).path if _is_url(file) else file
    return Path(path.lower().removesuffix(".gz")).suffix


def _is_url(file: str) -> bool:
    return file.lower().startswith(("http://", "https://"))


def _is_hub_id(file: str) -> bool:
    # "folder/chats.csv" looks like a dataset's id too; a known ending or a folder of that name tells them apart.
    return (
        _HUB_ID.fullmatch(file) is not None
        and not Path(file).exists()
        and not Path(file).parent.is_dir()
        and _suffix(file) not in _TABLE_SUFFIXES
    )


def _load_from_hub(
    dataset_id: str, *, split: str, revision: str | None, streaming: bool
) -> "datasets.Dataset | datasets.IterableDataset":
    import datasets

    try:
        return datasets.load_dataset(dataset_id, split=split, revision=revision, streaming=streaming)
    # The client raises errors of many libraries, and all of them mean that the dataset could not be had.
    except Exception as error:
        raise DataError(
            f"There is no file {dataset_id!r}, and the Hugging Face Hub gave no dataset {dataset_id!r} with "
            f"split {split!r} and revision {revision or 'main'!r}: {type(error).__name__}: {str(error).rstrip('.')}. "
            "Check the name, the split, the revision and the network, or download the data and pass its file."
        ) from error


def _download(url: str, *, sha256: str | None, anew: bool = False) -> Path:
    import datasets

    # A file that is known by its checksum is taken from the cache without asking the server, so also offline.
    config = datasets.DownloadConfig(
        use_etag=sha256 is None, force_download=anew, download_desc=f"Downloading {Path(urlparse(url).path).name}"
    )
    try:
        return Path(datasets.DownloadManager(download_config=config).download(url))
    # As above: errors of fsspec, of aiohttp, of the operating system.
    except Exception as error:
        # fsspec calls everything that goes wrong "file not found" and hides what it was.
        cause = error.__cause__ or error
        raise DataError(
            f"{url} could not be downloaded: {type(cause).__name__}: {cause}. Check the address and the network, "
            "or download it elsewhere and pass the file."
        ) from error


def _check_sha256(file: str, path: Path, expected: str) -> None:
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected.strip().lower():
        raise DataError(
            f"{file} is not the file that was expected: its sha256 is {found}, and {expected} was asked for. It was "
            "changed or is incomplete: get it again, or, if you trust this file, ask for the sha256 that it has."
        )


def _check_file(path: Path) -> None:
    if path.is_dir():
        inside = sorted(entry.name for entry in path.iterdir() if entry.is_file())[:5]
        listed = f", such as {', '.join(inside)}" if inside else ""
        raise DataError(f"{path} is a directory. Pass one file in it{listed}.")
    if not path.exists():
        if not path.parent.is_dir():
            raise DataError(f"There is no file {path}, nor a directory {path.parent}. Check the path.")
        nearest = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=1)
        hint = f"Did you mean {path.parent / nearest[0]}?" if nearest else "Check the path."
        raise DataError(f"There is no file {path}. {hint}")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty. Pass a file with at least one conversation.")


def _local_path(file: str, *, sha256: str | None) -> Path:
    """Return where the bytes of a path or URL lie on this machine, downloaded and checked."""
    if not _is_url(file):
        path = Path(file).expanduser()
        _check_file(path)
        if sha256 is not None:
            _check_sha256(file, path, sha256)
        return path
    path = _download(file, sha256=sha256)
    if sha256 is not None:
        try:
            _check_sha256(file, path, sha256)
        except DataError:
            # What the cache holds may be of yesterday.
            path = _download(file, sha256=sha256, anew=True)
            _check_sha256(file, path, sha256)
    return path


def _read_bytes(file: str, path: Path) -> bytes:
    try:
        data = path.read_bytes()
        # Told by its first bytes and not by its name: some servers unpack a .gz on the way.
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{file} is a broken gzip file ({error}). Get it again or pack it anew.") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}). Check its permissions.") from error
    if not data.strip():
        raise DataError(f"{file} is empty. Pass a file with at least one conversation.")
    return data


_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_ISO2022_KR_ANNOUNCEMENT = b"\x1b$)C"
_UNDECODABLE = re.compile("[\udc00-\udcff]")
_MOST_UNDECODABLE_UTF_8 = 0.5
_MOST_UNDECODABLE_KOREAN = 0.2


def _mark_undecodable(error: UnicodeError) -> tuple[str, int]:
    # As surrogateescape, but for bytes below 0x80 too, which can be undecodable in encodings of several bytes.
    assert isinstance(error, UnicodeDecodeError)
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error("chatformer.mark", _mark_undecodable)


def _undecodable_share(data: bytes, encoding: str) -> float:
    text = data.decode(encoding, "chatformer.mark")
    return len(_UNDECODABLE.findall(text)) / sum(character > "\x7f" for character in text)


def _find_encoding(file: str, data: bytes) -> str:
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            return encoding
    # Of seven bits like ASCII, so valid UTF-8: it must be asked for before.
    if _ISO2022_KR_ANNOUNCEMENT in data:
        logger.warning("%s: read as iso2022_kr. Pass --encoding if it is something else.", file)
        return "iso2022_kr"
    try:
        data.decode("utf-8")
        return "utf-8"
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
    if _undecodable_share(data, "utf-8") < _MOST_UNDECODABLE_UTF_8:
        return "utf-8"

    from charset_normalizer import from_bytes

    korean = ["cp949", "johab"]
    best = from_bytes(data, cp_isolation=korean).best()
    # It refuses a text for one broken byte; such a text still has an encoding, and one broken row.
    found = best.encoding if best else min(korean, key=lambda encoding: _undecodable_share(data, encoding))
    if _undecodable_share(data, found) > _MOST_UNDECODABLE_KOREAN:
        raise DataError(
            f"{file}, row {row}: the text is not UTF-8, nor any Korean encoding. "
            "Save it as UTF-8, or pass --encoding with the name of its encoding."
        )
    logger.warning("%s: not UTF-8, read as %s. Pass --encoding if it is something else.", file, found)
    return found


def _decode(file: str, data: bytes, encoding: str | None) -> tuple[str, str]:
    """Return the text, in which a lone surrogate U+DC00 + byte marks an undecodable byte, and the encoding used."""
    advice = "Save it as text in UTF-8; if it is UTF-16 without a byte order mark, pass --encoding utf-16-le."
    if encoding is None:
        if b"\0" in data and not data.startswith(tuple(_BYTE_ORDER_MARKS)):
            row = data.count(b"\n", 0, data.index(0)) + 1
            raise DataError(f"{file}, row {row}: a NUL byte, which text does not have. {advice}")
        encoding = _find_encoding(file, data)
    try:
        text = data.decode(encoding, "chatformer.mark").removeprefix("\ufeff")
    except LookupError as error:
        nearest = difflib.get_close_matches(encoding, encodings.aliases.aliases, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise DataError(
            f"{file}: there is no text encoding {encoding!r}.{hint} Korean ones are utf-8, cp949, johab, iso2022_kr."
        ) from error
    except UnicodeError as error:
        raise DataError(f"{file} cannot be read as {encoding} ({error}). Pass another --encoding.") from error
    if "\0" in text:
        row = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{file}, row {row}: a NUL character, when it is read as {encoding}. {advice}")
    return text, encoding


def _undecodable(text: str, encoding: str) -> str | None:
    found = _UNDECODABLE.search(text)
    return f"the byte 0x{ord(found[0]) - 0xDC00:02X} is not {encoding}" if found else None


def _csv_records(lines: Sequence[str], delimiter: str) -> Iterator[tuple[int, int, list[str], str | None]]:
    """
    Yield the index of a record's first line, of the line behind it, its fields, and its problem if it has one.

    After broken quotation marks reading goes on with the next line, so that one of them costs one line and not all
    lines up to the next quotation mark.
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


def _csv_rows(file: str, text: str, encoding: str, delimiter: str) -> tuple[list[str], list[_Row]]:
    lines = list(io.StringIO(text, newline=""))
    rows: list[_Row] = []
    columns: list[str] | None = None
    field_size_limit = csv.field_size_limit()
    csv.field_size_limit(max(field_size_limit, len(text)))
    try:
        for begin, end, fields, problem in _csv_records(lines, delimiter):
            content = "".join(lines[begin:end]).rstrip("\r\n")
            problem = _undecodable(content, encoding) or problem
            if not fields and problem is None:
                continue
            if columns is None:
                columns = [unicodedata.normalize("NFC", field).strip() for field in fields]
                # Spreadsheets leave columns without a name and content behind; only a name may not be there twice.
                names = [column for column in columns if column]
                if problem is None and len(set(names)) < len(names):
                    problem = "two columns have the same name"
                if problem is not None:
                    raise DataError(f"{file}, row {begin + 1}, the header: {problem}. Mend it.")
                continue
            if problem is None and len(fields) != len(columns):
                problem = f"there are {len(fields)} fields, and the header names {len(columns)}"
            row_fields = {} if problem else dict(zip(columns, fields, strict=True))
            rows.append(_Row(file=file, number=begin + 1, content=content, fields=row_fields, problem=problem))
    finally:
        csv.field_size_limit(field_size_limit)
    return columns or [], rows


def _json_row(file: str, number: int, content: Any, record: Any) -> _Row:
    if isinstance(record, list):
        record = {"messages": record}
    if not isinstance(record, dict):
        problem = "the record is neither an object nor a list of messages"
        return _Row(file=file, number=number, content=content, fields={}, problem=problem)
    return _Row(file=file, number=number, content=content, fields=record)


def _json_columns(rows: Iterable[_Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.fields))


def _json_rows(file: str, text: str, encoding: str) -> tuple[list[str], list[_Row]]:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        hint = " If it has one record a line, name it .jsonl." if error.msg == "Extra data" else " Mend it."
        raise DataError(
            f"{file}, row {error.lineno}, column {error.colno}: no valid JSON ({error.msg}).{hint}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: no usable JSON ({error}). Mend it.") from error
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
    if _UNDECODABLE.search(text):
        rows = [
            _Row(file=file, number=row.number, content=row.content, fields={}, problem=problem)
            if (problem := _undecodable(json.dumps(row.content, ensure_ascii=False), encoding))
            else row
            for row in rows
        ]
    return _json_columns(rows), rows


def _json_lines_rows(file: str, text: str, encoding: str) -> tuple[list[str], list[_Row]]:
    rows = []
    # Not splitlines: it also splits at characters that may stand within a JSON string, such as U+2028.
    for number, line in enumerate(text.split("\n"), start=1):
        content = line.strip()
        if not content:
            continue
        problem = _undecodable(content, encoding)
        if problem is None:
            try:
                rows.append(_json_row(file, number, content, json.loads(content)))
                continue
            except (ValueError, RecursionError) as error:
                problem = f"no valid JSON ({error})"
        rows.append(_Row(file=file, number=number, content=content, fields={}, problem=problem))
    return _json_columns(rows), rows


def _text_rows(file: str, path: Path, encoding: str | None) -> tuple[list[str], list[_Row]]:
    """Return the column names and the rows of a CSV, TSV, JSON or JSON Lines file."""
    text, encoding = _decode(file, _read_bytes(file, path), encoding)
    match _suffix(file):
        case ".csv":
            return _csv_rows(file, text, encoding, ",")
        case ".tsv":
            return _csv_rows(file, text, encoding, "\t")
        case ".json":
            return _json_rows(file, text, encoding)
        case _:
            return _json_lines_rows(file, text, encoding)


def _parallel_rows(files: Sequence[str], encoding: str | None) -> tuple[list[str], list[_Row]]:
    """Return rows of a question from the first file and the answer from the same line of the second."""
    columns = ["question", "answer"]
    sides = []
    for file in files:
        text, used = _decode(file, _read_bytes(file, _local_path(file, sha256=None)), encoding)
        # Not splitlines, which counts other lines than editors and line-by-line tools do.
        lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
        sides.append([(line, _undecodable(line, used)) for line in lines])
    questions, answers = sides
    if len(questions) != len(answers):
        raise DataError(
            f"{files[0]} has {len(questions)} lines and {files[1]} has {len(answers)}. In parallel files line i of "
            "the second answers line i of the first: mend them so that both have the same number."
        )
    rows = []
    for number, ((question, no_question), (answer, no_answer)) in enumerate(zip(*sides, strict=True), start=1):
        content = dict(zip(columns, (question, answer), strict=True))
        # The file that an empty or broken line stands in is the one to open and mend.
        file = files[1] if question.strip() and no_question is None else files[0]
        problem = no_question or no_answer
        rows.append(_Row(file=file, number=number, content=content, fields={} if problem else content, problem=problem))
    return columns, rows


def _parquet_dataset(file: str, path: Path) -> "datasets.Dataset":
    import datasets
    import pyarrow
    import pyarrow.dataset
    import pyarrow.parquet

    try:
        if pyarrow.parquet.read_metadata(path).num_rows > CONVERSATIONS_IN_MEMORY:
            # Kept in a file of the cache, from which only what is looked at comes into memory. Unless told otherwise,
            # the reader has the whole file in memory before.
            options = pyarrow.dataset.ParquetFragmentScanOptions(use_buffered_stream=True, pre_buffer=False)
            return datasets.Dataset.from_parquet(
                str(path), fragment_scan_options=options, writer_batch_size=CONVERSATIONS_AT_ONCE
            )
        return datasets.Dataset(datasets.table.InMemoryTable(pyarrow.parquet.read_table(path)))
    except (pyarrow.ArrowException, ValueError, OSError, datasets.exceptions.DatasetGenerationError) as error:
        raise DataError(
            f"{file} cannot be read as Parquet ({error}). Write it anew, or pass another format."
        ) from error


def _dataset_rows(name: str, dataset: "datasets.Dataset | datasets.IterableDataset") -> Iterator[_Row]:
    for number, record in enumerate(dataset.with_format(None), start=1):
        yield _Row(file=name, number=number, content=record, fields=record)


_PAIRS_OF_NAMES = (
    (
        "q question questions query prompt instruction input user human utterance 질문 질의 발화 사용자",
        "a answer answers response responses reply output completion bot assistant 답변 대답 응답 챗봇",
    ),
    ("source src", "target tgt"),
    ("text_a", "text_b"),
)
"""Usual names of a question's column, and of the answer's column that goes with it."""

_MESSAGES_NAMES = "messages conversation conversations dialog dialogs dialogue dialogues turns 대화"


def _normal_name(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip().casefold()


def _named_column(name: str, columns: Sequence[str], where: str) -> str:
    if name in columns:
        return name
    normal_names = {_normal_name(column): column for column in columns}
    nearest = difflib.get_close_matches(_normal_name(name), normal_names, n=1)
    hint = f" Did you mean {normal_names[nearest[0]]!r}?" if nearest else ""
    raise DataError(f"{where} has no column {name!r}; its columns are {', '.join(columns)}.{hint}")


def _choose_columns(
    columns: Sequence[str],
    where: str,
    *,
    question_column: str | None,
    answer_column: str | None,
    messages_column: str | None,
) -> _Columns:
    """Return the columns that were named, or else the only ones that usual names point to."""
    if messages_column is not None and (question_column is not None or answer_column is not None):
        raise DataError("Pass either --messages-column, or --question-column and --answer-column, not both.")
    if messages_column is not None:
        return _Columns(messages=_named_column(messages_column, columns, where))

    question = None if question_column is None else _named_column(question_column, columns, where)
    answer = None if answer_column is None else _named_column(answer_column, columns, where)
    if question is not None and question == answer:
        raise DataError(f"{where}: the column {question!r} cannot be both the question and the answer. Name two.")

    def usual(names: str) -> list[str]:
        return [column for column in columns if _normal_name(column) in names.split()]

    # A column that was named goes with the usual names of any pair.
    pairs = [
        _Columns(question=one, answer=other)
        for question_names, answer_names in _PAIRS_OF_NAMES
        for one in ([question] if question else usual(question_names))
        for other in ([answer] if answer else usual(answer_names))
        if one != other
    ]
    whole = [] if question or answer else [_Columns(messages=name) for name in usual(_MESSAGES_NAMES)]
    candidates = list(dict.fromkeys(pairs + whole))
    if len(candidates) != 1:
        found = " or ".join(" with ".join(candidate.names()) for candidate in candidates)
        raise DataError(
            f"{where}: it is not clear which columns to read" + (f", {found}. " if found else ". ") + "Its columns are "
            f"{', '.join(columns)}. Name them with --question-column and --answer-column, or --messages-column."
        )
    return candidates[0]


def _clean_text(value: Any, what: str) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise _BadRow(f"{what} is missing")
    if not isinstance(value, str):
        raise _BadRow(f"{what} is not text but {type(value).__name__}")
    text = unicodedata.normalize("NFC", value).strip()
    if not text:
        raise _BadRow(f"{what} is empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _BadRow(f"{what} has half a surrogate pair, U+{ord(text[error.start]):04X}") from error
    return text


_MESSAGE_FORMS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("role", "content", {"system": "system", "user": "user", "assistant": "assistant"}),
    (
        "from",
        "value",
        {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"},
    ),
)
"""How a message says whose it is and what it says: as chat templates have it, and as ShareGPT has it."""


def _clean_message(message: Any, number: int) -> Message:
    if not isinstance(message, Mapping):
        raise _BadRow(f"message {number} is not an object with role and content")
    role_key, content_key, roles = next(
        (form for form in _MESSAGE_FORMS if message.get(form[0]) is not None), _MESSAGE_FORMS[0]
    )
    role = message.get(role_key)
    if not isinstance(role, str) or role not in roles:
        raise _BadRow(f"message {number} has the {role_key} {role!r}, which is none of {', '.join(roles)}")
    content = _clean_text(message.get(content_key), f"message {number}, of the {roles[role]},")
    return {"role": roles[role], "content": content}


def _clean_messages(value: Any) -> list[Message]:
    if isinstance(value, str):
        # A cell of a CSV can hold a list only as JSON.
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise _BadRow(f"the messages are text that is no JSON list ({error})") from error
    if not isinstance(value, list) or not value:
        raise _BadRow(
            "the messages are missing" if not value else f"the messages are no list but {type(value).__name__}"
        )
    messages = [_clean_message(message, number) for number, message in enumerate(value, start=1)]
    first_turn = 1 if messages[0]["role"] == "system" else 0
    for index, message in enumerate(messages[first_turn:]):
        expected = ("user", "assistant")[index % 2]
        if message["role"] != expected:
            raise _BadRow(f"message {first_turn + index + 1} is of the {message['role']}, where the {expected} speaks")
    if messages[-1]["role"] != "assistant":
        raise _BadRow(f"the last message, of the {messages[-1]['role']}, has no answer")
    return messages


def _conversation(row: _Row, columns: _Columns) -> list[Message]:
    if row.problem is not None:
        raise _BadRow(row.problem)
    if columns.messages is not None:
        return _clean_messages(row.fields.get(columns.messages))
    assert columns.question is not None and columns.answer is not None
    return [
        {"role": "user", "content": _clean_text(row.fields.get(columns.question), "the question")},
        {"role": "assistant", "content": _clean_text(row.fields.get(columns.answer), "the answer")},
    ]


_SHOWN_BAD_ROWS = 5


def _no_conversations(name: str) -> DataError:
    return DataError(f"{name} has no conversations. Pass data with at least one.")


def _bad_rows_error(bad_rows: Sequence[tuple[_Row, str]], num_rows: int) -> DataError:
    shown = [f"  {row.file}, row {row.number}: {reason}" for row, reason in bad_rows[:_SHOWN_BAD_ROWS]]
    if len(bad_rows) > len(shown):
        shown.append(f"  … and {len(bad_rows) - len(shown)} more")
    if len(bad_rows) == num_rows:
        advice = "No row is left to learn from: mend them, or check that --encoding and the columns are right."
    else:
        advice = "Mend them, or pass --skip-bad-rows to leave them out and have them listed in a file."
    return DataError("\n".join([f"{len(bad_rows)} of {num_rows} rows cannot be used:", *shown, advice]))


def _write_bad_rows(bad_rows: Iterable[tuple[_Row, str]], file: Path) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8", newline="\n") as stream:
            for row, reason in bad_rows:
                content = row.content
                if not isinstance(content, str):
                    content = json.dumps(content, ensure_ascii=False, default=str)
                # What could not be decoded is no character that UTF-8 can hold: it is written as \xC7.
                content = re.sub("[\ud800-\udfff]", lambda found: f"\\x{ord(found[0]) & 0xFF:02X}", content)
                entry = {"file": row.file, "row": row.number, "reason": reason, "content": content}
                stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
        temporary.replace(file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DataError(
            f"The bad rows cannot be written to {file} ({error.strerror}). Pass another file to --skip-bad-rows."
        ) from error


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Hold opened data: rows that were read from text, or a dataset whose rows are read once the columns are known."""

    name: str
    columns: Sequence[str]
    rows: Sequence[_Row] = ()
    dataset: "datasets.Dataset | datasets.IterableDataset | None" = None

    def read(self, columns: _Columns) -> Iterable[_Row]:
        if self.dataset is None:
            return self.rows
        # Other columns may hold images or sound, which need not be decoded, or cannot be.
        return _dataset_rows(self.name, self.dataset.select_columns(columns.names()))


def _open_dataset(name: str, dataset: "datasets.Dataset | datasets.IterableDataset") -> _Source:
    # A stream may know its columns only from its first row.
    columns = dataset.column_names or list(next(iter(dataset), {}))
    return _Source(name=name, columns=columns, dataset=dataset)


def _open_file(file: str, *, encoding: str | None, sha256: str | None) -> _Source:
    path = _local_path(file, sha256=sha256)
    suffix = _suffix(file)
    if suffix not in _TABLE_SUFFIXES:
        raise DataError(
            f"{file}: files that can be read end in {', '.join(_TABLE_SUFFIXES)}, or have .gz behind it. Save it as "
            "one of these, or pass two files of plain text, whose lines are questions and answers."
        )
    if suffix == ".parquet":
        return _open_dataset(file, _parquet_dataset(file, path))
    columns, rows = _text_rows(file, path, encoding)
    return _Source(name=file, columns=columns, rows=rows)


def _open_parallel_files(files: Sequence[str], *, encoding: str | None, sha256: str | None) -> _Source:
    if len(files) != 2 or any(_suffix(file) in _TABLE_SUFFIXES for file in files):
        raise DataError(
            f"Found {len(files)} files: {', '.join(files)}. Pass one file of conversations, or two of plain text, the "
            "questions and the answers, line by line."
        )
    if sha256 is not None:
        raise DataError("A sha256 is of one file, and two were passed. Leave it out, or pass one file.")
    columns, rows = _parallel_rows(files, encoding)
    return _Source(name=" and ".join(files), columns=columns, rows=rows)


def _open_source(
    data: Any,
    *,
    encoding: str | None,
    split: str,
    revision: str | None,
    sha256: str | None,
    skip_bad_rows: str | os.PathLike[str] | None,
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
    if len(files) == 1 and _is_hub_id(files[0]):
        if sha256 is not None:
            raise DataError(f"{files[0]} is a dataset of the Hub, which has no sha256. Pin it with a revision.")
        stored = _load_from_hub(files[0], split=split, revision=revision, streaming=streaming)
        return _open_dataset(files[0], stored)
    if revision is not None:
        logger.warning("The revision %s is not used: only datasets of the Hub have revisions.", revision)
    if skip_bad_rows is not None and any(Path(file).resolve() == Path(skip_bad_rows).resolve() for file in files):
        raise DataError(f"Bad rows would be written over the data in {skip_bad_rows}. Pass another file for them.")
    if len(files) == 1:
        return _open_file(files[0], encoding=encoding, sha256=sha256)
    return _open_parallel_files(files, encoding=encoding, sha256=sha256)


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
    skip_bad_rows: str | os.PathLike[str] | None = None,
    streaming: bool = False,
    max_rows: int | None = None,
) -> "datasets.Dataset":
    """
    Return the conversations of `data` as a dataset with the one column `messages`.

    `data` is a CSV, TSV, JSON, JSON Lines (each also with .gz) or Parquet file, a URL of one, the id of a dataset on
    the Hub, a dataset, or two files of plain text, where each line of the second answers that line of the first.
    `split` picks from a Hub dataset or a DatasetDict, `revision` from a Hub dataset's versions. With `streaming` a Hub
    dataset is read row by row, without a copy of its files. Columns are found by their usual names unless named; the
    encoding of text is found out unless given. At most the first `max_rows` rows are read.

    Raises a `DataError` if the data cannot be had or read, and for rows that are no conversation. With
    `skip_bad_rows` those are left out and listed in that file, one JSON object a line.
    """

    source = _open_source(
        data,
        encoding=encoding,
        split=split,
        revision=revision,
        sha256=sha256,
        skip_bad_rows=skip_bad_rows,
        streaming=streaming,
    )
    if not source.columns and not source.rows:
        raise _no_conversations(source.name)
    broken = [(row, row.problem) for row in source.rows if row.problem is not None]
    if source.rows and len(broken) == len(source.rows):
        raise _bad_rows_error(broken, len(broken))
    columns = _choose_columns(
        source.columns,
        source.name,
        question_column=question_column,
        answer_column=answer_column,
        messages_column=messages_column,
    )
    logger.info("%s: reading %s of the columns %s.", source.name, columns.names(), list(source.columns))

    bad_rows = []

    def good_rows() -> Iterator[list[Message]]:
        for row in itertools.islice(source.read(columns), max_rows):
            try:
                yield _conversation(row, columns)
            except _BadRow as reason:
                bad_rows.append((row, str(reason)))

    conversations = _as_dataset(good_rows())
    num_rows = len(conversations) + len(bad_rows)
    if num_rows == 0:
        raise _no_conversations(source.name)
    if bad_rows:
        if skip_bad_rows is None or not len(conversations):
            raise _bad_rows_error(bad_rows, num_rows)
        _write_bad_rows(bad_rows, Path(skip_bad_rows))
        logger.warning("%d of %d rows cannot be used and are listed in %s.", len(bad_rows), num_rows, skip_bad_rows)
    return conversations


def _as_dataset(conversations: Iterator[list[Message]]) -> "datasets.Dataset":
    """Return conversations as a dataset: in memory if they are few, otherwise in a file that goes when we do."""
    import datasets
    import pyarrow

    message = {"role": datasets.Value("string"), "content": datasets.Value("string")}
    features = datasets.Features({"messages": datasets.List(message)})
    first = list(itertools.islice(conversations, CONVERSATIONS_IN_MEMORY))
    if len(first) < CONVERSATIONS_IN_MEMORY:
        return datasets.Dataset.from_dict({"messages": first}, features=features)
    rest = itertools.chain(first, conversations)
    chunks = iter(lambda: list(itertools.islice(rest, CONVERSATIONS_AT_ONCE)), [])
    return _in_file((pyarrow.table({"messages": chunk}, schema=features.arrow_schema) for chunk in chunks), features)


def _in_file(tables: "Iterable[pyarrow.Table]", features: "datasets.Features") -> "datasets.Dataset":
    """Return the tables as a dataset in a file that goes when we do."""
    import datasets
    from datasets.arrow_writer import ArrowWriter

    folder = tempfile.mkdtemp(prefix="chatformer-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = os.path.join(folder, "conversations.arrow")
    with ArrowWriter(features=features, path=path, writer_batch_size=CONVERSATIONS_AT_ONCE) as writer:
        for table in tables:
            writer.write_table(table)
        writer.finalize()
    return datasets.Dataset.from_file(path)


def _opening(messages: Sequence[Message]) -> tuple[str, ...]:
    """Return the system message, if there is one, and the first question, as readers tell them apart."""
    end = 2 if messages[0]["role"] == "system" else 1
    return tuple(f"{message['role']}: {' '.join(message['content'].split()).casefold()}" for message in messages[:end])


def split_conversations(
    conversations: "datasets.Dataset", *, validation_fraction: float, seed: int
) -> "tuple[datasets.Dataset, datasets.Dataset]":
    """
    Return training and validation conversations, which have no opening in common.

    An opening is the system message and the first question, whatever their case and spacing. So no source that a
    model is validated on is one that it learnt. Which openings go where depends on the seed and not on the order of
    rows. Raises a `ValueError` for a fraction outside [0, 1), a `DataError` if one side would be empty.
    """
    if not 0 <= validation_fraction < 1:
        raise ValueError(f"validation_fraction ({validation_fraction}) must be at least 0 and less than 1.")
    if validation_fraction == 0:
        return conversations, conversations.select([])
    wanted = min(max(1, round(validation_fraction * len(conversations))), len(conversations) - 1)
    # Of many conversations only those with the first lots are remembered: twice as many as are wanted.
    share = 1.0 if len(conversations) < CONVERSATIONS_IN_MEMORY else min(1.0, max(2 * validation_fraction, 0.01))
    while (drawn := _draw(conversations, wanted, seed, share)) is None:
        share = min(1.0, 2 * share)
    is_validation = np.zeros(len(conversations), dtype=bool)
    is_validation[drawn] = True
    return _chosen(conversations, ~is_validation), _chosen(conversations, is_validation)


def _draw(conversations: "datasets.Dataset", wanted: int, seed: int, share: float) -> np.ndarray | None:
    """
    Return the indices of `wanted` conversations, or of a few less, with all that have the same openings as these.

    Openings are drawn by lot. Only the first `share` of the lots is looked at; None means that it does not suffice.
    """
    # A digest draws the lot, and takes less memory than the words; half of one tells them apart.
    digests, indices = bytearray(), array("q")
    bound = math.ceil(share * 2**64)
    for index, messages in enumerate(conversations["messages"]):
        digest = hashlib.sha256(json.dumps([seed, *_opening(messages)]).encode()).digest()[:16]
        if int.from_bytes(digest[:8], "big") < bound:
            digests += digest
            indices.append(index)
    lots = np.array(np.frombuffer(digests, dtype=">u8")).reshape(-1, 2)
    order = np.lexsort((lots[:, 1], lots[:, 0]))
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (lots[order[1:]] != lots[order[:-1]]).any(axis=1)
    # The conversations of an opening stand side by side in `order`.
    starts = np.flatnonzero(is_first)
    if share == 1 and len(starts) < 2:
        raise DataError(
            f"{len(conversations)} conversations with {len(starts)} different openings cannot be split. Pass more "
            "conversations, validation data of their own, or a validation fraction of 0."
        )
    sizes = np.diff(starts, append=len(order))
    drawn = []
    for start, size in zip(starts, sizes, strict=True):
        if size <= wanted:
            drawn.append(order[start : start + size])
            wanted -= size
        if not wanted:
            break
    if wanted and share < 1:
        return None
    if not drawn:
        # Every opening has more conversations than what was asked for: the fewest are nearest to it.
        smallest = np.argmin(sizes)
        drawn.append(order[starts[smallest] :][: sizes[smallest]])
    return np.array(indices)[np.concatenate(drawn)]


def _chosen(conversations: "datasets.Dataset", is_chosen: np.ndarray) -> "datasets.Dataset":
    """Return the conversations for which `is_chosen` is true, a file of many like `_as_dataset`."""
    if len(conversations) < CONVERSATIONS_IN_MEMORY:
        return conversations.select(np.flatnonzero(is_chosen))
    import pyarrow

    def tables() -> "Iterator[pyarrow.Table]":
        # `select` would hold the indices in memory, each of them for a while as an object of its own.
        start = 0
        for table in conversations.with_format("arrow").iter(batch_size=CONVERSATIONS_AT_ONCE):
            yield table.filter(pyarrow.array(is_chosen[start : start + len(table)]))
            start += len(table)

    return _in_file(tables(), conversations.features)


def exchanges(messages: Sequence[Message]) -> Iterator[tuple[list[Message], str]]:
    """Yield each reply of the assistant behind the messages before it."""
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            yield list(messages[:index]), message["content"]
