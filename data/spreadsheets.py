"""Excel files: the records of one sheet."""

import io
import logging
from collections.abc import Iterator
from typing import Any

from .messages import DataError
from .tables import Record

logger = logging.getLogger(__name__)


def spreadsheet_records(file: str, content: bytes, sheet: str | None) -> Iterator[Record]:
    """Yield the rows of a sheet, by default the first, that are not empty."""
    try:
        from python_calamine import CalamineError, CalamineWorkbook
    except ImportError as error:
        raise DataError(
            f"{file}: an Excel file needs a package that is not installed: pip install 'chatformer[excel]'. Or save it "
            "as CSV."
        ) from error
    try:
        workbook = CalamineWorkbook.from_filelike(io.BytesIO(content))
        names = workbook.sheet_names
        if sheet is not None and sheet not in names:
            raise DataError(f"{file} has no sheet {sheet!r}; its sheets are {', '.join(names)}. Pass one as --sheet.")
        rows = workbook.get_sheet_by_name(names[0] if sheet is None else sheet).to_python(skip_empty_area=False)
    except CalamineError as error:
        raise DataError(
            f"{file} cannot be read as an Excel file ({error}). Save it again as .xlsx without a password, or as CSV."
        ) from error
    if sheet is None and len(names) > 1:
        logger.warning("%s: only the first of the sheets %s is read; --sheet reads another.", file, ", ".join(names))
    for number, row in enumerate(rows, start=1):
        fields = [_cell(value) for value in row]
        if any(field != "" for field in fields):
            yield Record(number=number, content=fields, fields=fields)


def _cell(value: Any) -> Any:
    # A cell that shows 42 holds 42.0. How other numbers and dates are shown is the cell's format, which is not read.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else value
