"""Rows that are not conversations: an error that names them, or a file that lists them."""

import dataclasses
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chatformer.storage.keeping import is_same_file
from chatformer.storage.writing import json_line, write_text

from .messages import DataError
from .rows import Row

logger = logging.getLogger(__name__)

_NUM_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """One row, with the reason why it cannot be used and its content as text."""

    file: str
    row: int
    reason: str
    content: str

    @classmethod
    def of(cls, row: Row, reason: str) -> "BadRow":
        content = row.content
        if not isinstance(content, str):
            content = json.dumps(content, ensure_ascii=False, default=str)
        # UTF-8 cannot hold a surrogate, which marks a byte that could not be decoded: it is written as \xC7.
        content = re.sub("[\ud800-\udfff]", lambda match: f"\\x{ord(match[0]) & 0xFF:02X}", content)
        return cls(file=row.file, row=row.number, reason=reason, content=content)


@dataclass(frozen=True, kw_only=True)
class BadRows:
    """The rows that cannot be used, of all `num_rows` rows of the data, which was read from `files`."""

    rows: Sequence[BadRow] = ()
    num_rows: int = 0
    files: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[BadRow]:
        return iter(self.rows)

    def error(self) -> DataError:
        """The error for data that must not have such rows; it shows the first of them."""
        shown = [f"  {row.file}, row {row.row}: {row.reason}" for row in self.rows[:_NUM_SHOWN]]
        if len(self) > len(shown):
            shown.append(f"  … and {len(self) - len(shown)} more")
        if len(self) == self.num_rows:
            advice = "No row is left to learn from: fix them, or check that --encoding and the columns are right."
        else:
            advice = "Fix them, or pass --skip-bad-rows to leave them out and have them listed in a file."
        return DataError("\n".join([f"{len(self)} of {self.num_rows} rows cannot be used:", *shown, advice]))

    def report(self, file: Path | None) -> None:
        """Warn of the rows and, if `file` is given, list them there, one JSON object a line."""
        if not self.rows:
            return
        if file is None:
            logger.warning("%d of %d rows cannot be used and are left out.", len(self), self.num_rows)
            return
        self._write(file)
        logger.warning("%d of %d rows cannot be used and are listed in %s.", len(self), self.num_rows, file)

    def _write(self, file: Path) -> None:
        if any(is_same_file(Path(name).expanduser(), file) for name in self.files):
            raise DataError(f"Bad rows would be written over the data in {file}. Choose another folder to write to.")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, "".join(json_line(dataclasses.asdict(row)) for row in self.rows))
        except OSError as error:
            raise DataError(
                f"The bad rows cannot be written to {file} ({error.strerror}). Choose another folder to write to."
            ) from error
