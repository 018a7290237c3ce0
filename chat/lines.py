"""Texts that come in lines, and go out in lines."""

from collections.abc import Iterable, Iterator

from .errors import InputError


def lines_of(stream: Iterable[bytes], name: str) -> Iterator[str]:
    """Yield the text of each line; raise an `InputError` that says which line is not UTF-8."""
    for number, line in enumerate(stream, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise InputError(f"line {number} of {name} is not UTF-8, which it must be.") from error


def in_one_line(text: str) -> str:
    """Return the text with each run of white space as one space."""
    return " ".join(text.split())
