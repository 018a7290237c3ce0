"""Datasets of conversations: in memory if they are few, otherwise in an Arrow file that is read piece by piece."""

import atexit
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from chatformer.conversation import Message

if TYPE_CHECKING:
    import datasets
    import pyarrow

CONVERSATIONS_IN_MEMORY = 100_000
"""From this number on, conversations are kept in a file."""
CONVERSATIONS_AT_ONCE = 10_000
"""Conversations that are read or written at a time."""
RECORDS_AT_ONCE = 1_000
"""Rows that are decoded at a time."""


def are_few(num_conversations: int) -> bool:
    """True if this many conversations are kept in memory."""
    return num_conversations < CONVERSATIONS_IN_MEMORY


def list_of_messages() -> "datasets.List":
    """The type of a column that holds lists of messages."""
    import datasets

    return datasets.List({"role": datasets.Value("string"), "content": datasets.Value("string")})


def records(dataset: "datasets.Dataset | datasets.IterableDataset") -> Iterator[dict[str, Any]]:
    """The rows as Python's objects; decoded many at a time, as a row for itself takes several times as long."""
    import datasets

    dataset = dataset.with_format(None)
    if isinstance(dataset, datasets.IterableDataset):
        # Of a stream, no row is fetched before it is wanted.
        yield from dataset
        return
    for batch in dataset.iter(batch_size=RECORDS_AT_ONCE):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def messages_of(conversations: "datasets.Dataset") -> Iterator[list[Message]]:
    """The messages of each conversation."""
    return (row["messages"] for row in records(conversations.select_columns("messages")))


def as_dataset(conversations: Iterator[list[Message]]) -> "datasets.Dataset":
    """A dataset with the one column `messages`; if they are many, they are in a file that is deleted at exit."""
    import datasets
    import pyarrow

    features = datasets.Features({"messages": list_of_messages()})
    first = list(itertools.islice(conversations, CONVERSATIONS_IN_MEMORY))
    if are_few(len(first)):
        return datasets.Dataset.from_dict({"messages": first}, features=features)
    rest = itertools.chain(first, conversations)
    chunks = iter(lambda: list(itertools.islice(rest, CONVERSATIONS_AT_ONCE)), [])
    return _in_file((pyarrow.table({"messages": chunk}, schema=features.arrow_schema) for chunk in chunks), features)


def chosen(conversations: "datasets.Dataset", is_chosen: np.ndarray) -> "datasets.Dataset":
    """The conversations for which `is_chosen` is true; if they are many, they are in a file of their own."""
    if are_few(len(conversations)):
        return conversations.select(np.flatnonzero(is_chosen))
    import pyarrow

    def tables() -> "Iterator[pyarrow.Table]":
        # `select` would hold the indices in memory, each for a while as a Python object.
        start = 0
        for table in conversations.with_format("arrow").iter(batch_size=CONVERSATIONS_AT_ONCE):
            yield table.filter(pyarrow.array(is_chosen[start : start + len(table)]))
            start += len(table)

    return _in_file(tables(), conversations.features)


def _in_file(tables: "Iterable[pyarrow.Table]", features: "datasets.Features") -> "datasets.Dataset":
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
