"""The data that has a name: what comes with chatformer, and what it makes of installed packages."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from . import digits, emojis, tunes
from .bad_rows import BadRows
from .conversations import Loaded, load_conversations
from .messages import DataError

if TYPE_CHECKING:
    import datasets

STARTER_FILES = ("conversations.jsonl", "follow_ups.jsonl")
"""Questions and short conversations, and conversations whose later replies need the turns before."""


class Rows(NamedTuple):
    """Where named data comes from: rows with columns, those to learn and those that are held out."""

    rows: Callable[..., Iterator[dict[str, str]]]
    is_held_out: bool


STARTER = "starter"
MADE = {
    "digits": Rows(digits.rows, False),
    "digits-held-out": Rows(digits.rows, True),
    "emoji": Rows(emojis.rows, False),
    "emoji-held-out": Rows(emojis.rows, True),
    "emoji-wishes": Rows(partial(emojis.rows, wished=True), False),
    "emoji-wishes-held-out": Rows(partial(emojis.rows, wished=True), True),
    "tunes": Rows(tunes.rows, False),
    "tunes-held-out": Rows(tunes.rows, True),
    "essen": Rows(partial(tunes.rows, essen=True), False),
    "essen-held-out": Rows(partial(tunes.rows, essen=True), True),
}
"""By name, the data made of packages. What is held out of "x" is "x-held-out"."""


def are_names(data: Iterable[str]) -> bool:
    """True if all of `data` is named data, and not files."""
    names = list(data)
    return bool(names) and all(name == STARTER or name in MADE for name in names)


def held_out_of(name: str) -> str | None:
    """The named data that validates training on `name`; None if it has no such data."""
    held_out = f"{name}-held-out"
    return held_out if held_out in MADE else None


def named_conversations(names: Iterable[str], *, sha256: str | None = None, **options: Any) -> Loaded:
    """
    The conversations of named data, one behind the other.

    `options` are those of `load_conversations`. Raises a `DataError` for a checksum, which is of one file.
    """
    import datasets

    if sha256 is not None:
        raise DataError("--data-sha256 is of a file of yours; the data that has a name comes with packages.")
    max_rows = options.pop("max_rows", None)
    conversations = datasets.concatenate_datasets([conversations_of_name(name, **options) for name in names])
    if max_rows is not None:
        conversations = conversations.select(range(min(max_rows, len(conversations))))
    return Loaded(conversations=conversations, bad_rows=BadRows())


def conversations_of_name(name: str, **options: Any) -> "datasets.Dataset":
    """The conversations of one name; of the starter corpus as it is, without options."""
    import datasets

    if name == STARTER:
        parts = [load_conversations(str(starter_file(file))).conversations for file in STARTER_FILES]
        return datasets.concatenate_datasets(parts)
    made = MADE[name]
    rows = datasets.Dataset.from_list(list(made.rows(held_out=made.is_held_out)))
    return load_conversations(rows, **options).conversations


def starter_file(name: str) -> Path:
    """Where a file of the starter corpus lies."""
    return Path(str(resources.files("chatformer.data").joinpath("starter", name)))
