"""Which conversations are kept for validation."""

import hashlib
import json
import math
from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from chatformer.conversation import Message
from chatformer.storage.explaining import counted

from .arrow import are_few, chosen, messages_of, records
from .messages import DataError
from .prose import CHAPTER, is_prose

if TYPE_CHECKING:
    import datasets


def _opening(messages: Sequence[Message]) -> tuple[str, ...]:
    """The system message, if there is one, and the first question, without regard to case and spacing."""
    end = 2 if messages[0]["role"] == "system" else 1
    return tuple(f"{message['role']}: {' '.join(message['content'].split()).casefold()}" for message in messages[:end])


def _subjects(conversations: "datasets.Dataset") -> Iterator[tuple[str, ...]]:
    """Yield what each conversation may have in common with others of its side only: its chapter, or its opening."""
    if is_prose(conversations):
        yield from ((row[CHAPTER],) for row in records(conversations.select_columns(CHAPTER)))
    else:
        yield from map(_opening, messages_of(conversations))


def split_conversations(
    conversations: "datasets.Dataset", *, validation_fraction: float, seed: int
) -> "tuple[datasets.Dataset, datasets.Dataset]":
    """
    The training and the validation conversations, which have no opening in common.

    An opening is the system message and the first question, without regard to case and spacing. So a model is
    validated on sources that it did not learn. The side of an opening depends on the seed and not on the order of rows.
    Of prose, chapters are what the two do not have in common.
    Raises a `ValueError` for a fraction outside [0, 1), a `DataError` if one side would be empty.
    """
    if not 0 <= validation_fraction < 1:
        raise ValueError(f"validation_fraction ({validation_fraction}) must be at least 0 and less than 1.")
    if validation_fraction == 0:
        return conversations, conversations.select([])
    wanted = min(max(1, round(validation_fraction * len(conversations))), len(conversations) - 1)
    # Of many conversations, only those with the lowest lots are kept in memory: twice as many as wanted.
    share = 1.0 if are_few(len(conversations)) else min(1.0, max(2 * validation_fraction, 0.01))
    while (drawn := _draw(conversations, wanted, seed, share)) is None:
        share = min(1.0, 2 * share)
    is_validation = np.zeros(len(conversations), dtype=bool)
    is_validation[drawn] = True
    return chosen(conversations, ~is_validation), chosen(conversations, is_validation)


def _draw(conversations: "datasets.Dataset", wanted: int, seed: int, share: float) -> np.ndarray | None:
    """
    The indices of `wanted` conversations or a few less; all conversations of an opening are drawn together.

    An opening's hash is its lot, and the lowest lots are drawn. Only the lowest `share` of all lots is read; None means
    that it holds too few.
    """
    # A digest takes less memory than the words, and half of one is enough to distinguish openings.
    digests, indices = bytearray(), array("q")
    bound = math.ceil(share * 2**64)
    for index, subject in enumerate(_subjects(conversations)):
        digest = hashlib.sha256(json.dumps([seed, *subject]).encode()).digest()[:16]
        if int.from_bytes(digest[:8], "big") < bound:
            digests += digest
            indices.append(index)
    lots = np.array(np.frombuffer(digests, dtype=">u8")).reshape(-1, 2)
    order = np.lexsort((lots[:, 1], lots[:, 0]))
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (lots[order[1:]] != lots[order[:-1]]).any(axis=1)
    # The conversations of an opening are neighbours in `order`.
    starts = np.flatnonzero(is_first)
    if share == 1 and len(starts) < 2:
        opening = "different chapter" if is_prose(conversations) else "different opening"
        raise DataError(
            f"{counted(len(conversations), 'conversation')} with {counted(len(starts), opening)} cannot be split. Pass "
            "more conversations, validation data of their own, or a validation fraction of 0."
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
        # Every opening has more conversations than wanted: the smallest group comes nearest.
        smallest = np.argmin(sizes)
        drawn.append(order[starts[smallest] :][: sizes[smallest]])
    return np.array(indices)[np.concatenate(drawn)]
