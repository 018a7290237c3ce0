"""Texts that are read and written one on each line."""

import itertools
import zlib
from collections.abc import Iterable, Iterator

from .errors import InputError


def lines_of(stream: Iterable[bytes], name: str) -> Iterator[str]:
    """Yield the text of each line; raise an `InputError` that names the line of `name` that cannot be read."""
    lines = iter(stream)
    for number in itertools.count(1):
        try:
            line = next(lines).decode("utf-8-sig" if number == 1 else "utf-8")
        except StopIteration:
            return
        except UnicodeDecodeError as error:
            raise InputError(f"line {number} of {name} must be UTF-8, but it is not.") from error
        except (EOFError, zlib.error, OSError) as error:
            raise InputError(f"{name} cannot be read: {error}.") from error
        yield line.strip()


def in_one_line(text: str) -> str:
    """The text with each run of white space as one space."""
    return " ".join(text.split())
