"""From conversations to ids: each reply with the turns before it, encoded once and kept in Arrow's files."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from chatformer.conversation import Message, encode_conversations, ids_of_texts
from chatformer.storage.bars import datasets_bars

from .arrow import list_of_messages
from .messages import DataError, exchanges

if TYPE_CHECKING:
    import datasets
    import pyarrow

TooLong = Literal["truncate", "drop", "refuse"]

EXCHANGES_PER_PROCESS = 20_000
"""With fewer conversations, starting another process costs more time than it saves."""


class Sequences:
    """Lists of ids in Arrow's buffers: in memory, or in a file that may be larger than memory."""

    def __init__(self, column: "pyarrow.ChunkedArray"):
        chunks = [chunk for chunk in column.chunks if len(chunk)]
        self.chunks = [(chunk.offsets.to_numpy(), chunk.values.to_numpy()) for chunk in chunks]
        self.starts = np.cumsum([0, *map(len, chunks)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> np.ndarray:
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        offsets, values = self.chunks[number]
        place = index - self.starts[number]
        return values[offsets[place] : offsets[place + 1]]

    def padded(self, indices: np.ndarray, padding: int) -> np.ndarray:
        """Some of the lists as rows, (B, T), filled up with `padding` on the right."""
        numbers = np.searchsorted(self.starts, indices, side="right") - 1
        parts = []
        for number in np.unique(numbers):
            rows = np.flatnonzero(numbers == number)
            offsets, values = self.chunks[number]
            places = indices[rows] - self.starts[number]
            parts.append((rows, offsets[places], offsets[places + 1] - offsets[places], values))
        rows_BT = np.full((len(indices), max(part[2].max() for part in parts)), padding, np.int64)
        column_T = np.arange(rows_BT.shape[1])
        for rows, first, lengths, values in parts:
            row, column = np.nonzero(column_T < lengths[:, None])
            rows_BT[rows[row], column] = values[first[row] + column]
        return rows_BT

    def lengths(self) -> np.ndarray:
        """The number of ids in each list, in 32 bits to save memory."""
        lengths = np.empty(len(self), np.int32)
        for start, (offsets, _) in zip(self.starts, self.chunks, strict=False):
            lengths[start : start + len(offsets) - 1] = np.diff(offsets)
        return lengths


@dataclass(frozen=True)
class EncodedExchanges:
    """
    Sources and targets as ids.

    `rows` has the columns input_ids, labels, history (the messages before the reply) and reply; `num_too_long`
    exchanges were left out.
    """

    rows: "datasets.Dataset"
    num_too_long: int = 0
    share_behind_others: float = 0.0
    """Share of its readings that an epoch does behind other conversations, other readings in each epoch. If it is not
    0, the rows end with a twin for each of the `readings`, in their order, the same exchange behind others; and that
    `num_twins` times, each time behind different ones."""
    num_twins: int = 1
    repeated: np.ndarray | None = None
    """The index of each exchange as often as an epoch reads it, if that is not once."""

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def sources(self) -> Sequences:
        return Sequences(self.rows.data.column("input_ids"))

    @cached_property
    def targets(self) -> Sequences:
        return Sequences(self.rows.data.column("labels"))

    @cached_property
    def source_lengths(self) -> np.ndarray:
        return self.sources.lengths()

    @cached_property
    def target_lengths(self) -> np.ndarray:
        return self.targets.lengths()

    @cached_property
    def replies(self) -> list[str]:
        return list(self.rows["reply"])

    @cached_property
    def histories(self) -> list[list[Message]]:
        return list(self.rows["history"])

    def with_behind_others(self, twins: "EncodedExchanges", share: float) -> "EncodedExchanges":
        """These exchanges, a share of which each epoch reads as one of their twins: behind other conversations."""
        import datasets

        num_twins, rest = divmod(len(twins), len(self.readings))
        assert num_twins and not rest
        rows = datasets.concatenate_datasets([self.rows, twins.rows])
        return EncodedExchanges(rows, self.num_too_long, share, num_twins, self.repeated)

    @property
    def readings(self) -> np.ndarray:
        """The index of each exchange that an epoch reads, as often as it does."""
        return np.arange(len(self), dtype=np.int32)[: self.num_alone] if self.repeated is None else self.repeated

    @property
    def num_alone(self) -> int:
        """The number of exchanges, without twins."""
        if not self.share_behind_others:
            return len(self)
        if self.repeated is None:
            return len(self) // (1 + self.num_twins)
        return len(self) - self.num_twins * len(self.repeated)

    @property
    def alone(self) -> "EncodedExchanges":
        """The exchanges, each once and without twins."""
        return EncodedExchanges(self.rows.select(range(self.num_alone)), self.num_too_long)

    def drawn(self, generator: np.random.Generator) -> np.ndarray:
        """The indices of an epoch, shuffled: each reading's exchange or, with the share's probability, a twin of it."""
        indices = self.readings.copy()
        if self.share_behind_others:
            is_behind = generator.random(len(indices)) < self.share_behind_others
            twins = np.arange(self.num_alone, len(self), dtype=np.int32).reshape(self.num_twins, -1)
            chosen = generator.integers(self.num_twins, size=len(indices)) if self.num_twins > 1 else 0
            indices = np.where(is_behind, twins[chosen, np.arange(len(indices))], indices)
        generator.shuffle(indices)
        return indices

    @cached_property
    def tokens_per_epoch(self) -> int:
        """Source and target tokens of a mean epoch."""
        lengths = self.source_lengths + self.target_lengths
        alone, behind = lengths[self.readings].sum(), lengths[self.num_alone :].sum() / self.num_twins
        return round((1 - self.share_behind_others) * int(alone) + self.share_behind_others * int(behind))

    @property
    def target_tokens_per_epoch(self) -> int:
        """Target tokens of an epoch: a twin has those of its exchange."""
        return int(self.target_lengths[self.readings].sum())

    def source(self, index: int) -> np.ndarray:
        return self.sources[index]

    def target(self, index: int) -> np.ndarray:
        return self.targets[index]


def joined(parts: Sequence[EncodedExchanges], times: Sequence[int] = ()) -> EncodedExchanges:
    """The exchanges of all parts, of which an epoch reads those of each part so many `times`; by default once."""
    import datasets

    rows = datasets.concatenate_datasets([part.rows for part in parts]) if len(parts) > 1 else parts[0].rows
    repeated = None
    if max(times, default=1) > 1:
        of_parts = np.split(np.arange(len(rows), dtype=np.int32), np.cumsum([len(part) for part in parts])[:-1])
        repeated = np.concatenate([np.tile(part, count) for part, count in zip(of_parts, times, strict=True)])
    return EncodedExchanges(rows, sum(part.num_too_long for part in parts), repeated=repeated)


def encode_exchanges(
    conversations: "datasets.Dataset | Iterable[dict[str, Any]]",
    tokenizer: Any,
    max_source_tokens: int,
    max_target_tokens: int,
    *,
    too_long: TooLong = "truncate",
    last_only: bool = False,
    num_processes: int | None = None,
    cache_folder: Path | None = None,
) -> EncodedExchanges:
    """
    Encode each reply of each conversation, with the turns before it as its source; only the last with `last_only`.

    `too_long` is what happens to exchanges that are too long. "truncate" leaves out the oldest turns of a source. An
    exchange whose reply is too long is left out and counted, as a model that trains on truncated replies learns to
    break off. "drop" leaves out, and counts, every exchange whose source or reply is too long. "refuse" raises a
    `DataError`.

    `num_processes` encode in parallel; by default one for each core, but fewer for little data. With a `cache_folder`
    the result is a file there, named by a hash of its content, and the next call with the same content reads it.
    """
    import datasets

    if not isinstance(conversations, datasets.Dataset):
        features = datasets.Features({"messages": list_of_messages()})
        conversations = datasets.Dataset.from_list(list(conversations), features=features)
    if not len(conversations):
        # `map` on an empty dataset returns one without the new columns.
        return EncodedExchanges(datasets.Dataset.from_dict({name: [] for name in _features()}, _features()))
    options = {
        "tokenizer": tokenizer,
        "max_source_tokens": max_source_tokens,
        "max_target_tokens": max_target_tokens,
        "too_long": too_long,
        "last_only": last_only,
    }
    num_exchanges = len(conversations) if last_only else _count_replies(conversations)
    key = _content_key(conversations, {**options, "tokenizer": _tokenizer_state(tokenizer)})
    if cache_folder is not None:
        cache_folder.mkdir(parents=True, exist_ok=True)
    if num_processes is None:
        num_processes = min(os.cpu_count() or 1, len(conversations) // EXCHANGES_PER_PROCESS)
    with datasets_bars(shown=len(conversations) >= EXCHANGES_PER_PROCESS):
        rows = conversations.map(
            _encode_batch,
            batched=True,
            remove_columns=conversations.column_names,
            fn_kwargs=options,
            features=_features(),
            num_proc=num_processes if num_processes > 1 else None,
            new_fingerprint=key[:32],
            cache_file_name=None if cache_folder is None else str(cache_folder / f"replies-{key[:32]}.arrow"),
            load_from_cache_file=True,
            keep_in_memory=cache_folder is None,
            desc="encoding",
        )
    return EncodedExchanges(rows, num_exchanges - len(rows))


def _features() -> "datasets.Features":
    import datasets

    ids = datasets.List(datasets.Value("int32"))
    return datasets.Features(
        {"input_ids": ids, "labels": ids, "history": list_of_messages(), "reply": datasets.Value("string")}
    )


def _encode_batch(
    batch: dict[str, Sequence[Any]],
    *,
    tokenizer: Any,
    max_source_tokens: int,
    max_target_tokens: int,
    too_long: TooLong,
    last_only: bool,
) -> dict[str, list[Any]]:
    """The rows of some conversations, without exchanges that are too long."""
    encoded: dict[str, list[Any]] = {"input_ids": [], "labels": [], "history": [], "reply": []}
    if not (found := list(_exchanges_of(batch, last_only))):
        return encoded
    histories, replies = (list(part) for part in zip(*found, strict=True))
    sources = encode_conversations(tokenizer, histories, max_source_tokens if too_long == "truncate" else None)
    # Typed text never becomes a control token; the end token follows it. Tokenizers for translation encode targets
    # differently from sources.
    targets = ids_of_texts(tokenizer, replies, split_special_tokens=True, as_target=True)
    for history, reply, source, target in zip(histories, replies, sources, targets, strict=True):
        if len(target) > max_target_tokens or len(source) > max_source_tokens:
            if too_long == "refuse":
                raise DataError(
                    f"An exchange is too long, and --too-long is refuse: {len(source)} source tokens of "
                    f"{max_source_tokens}, {len(target)} target tokens of {max_target_tokens}. It ends with "
                    f"{history[-1]['content'][:80]!r} and {reply[:80]!r}. Raise --max-source-tokens or "
                    "--max-target-tokens, or take --too-long truncate or drop."
                )
            continue
        for name, value in (("input_ids", source), ("labels", target), ("history", history), ("reply", reply)):
            encoded[name].append(value)
    return encoded


def _exchanges_of(batch: dict[str, Sequence[Any]], last_only: bool) -> Iterator[tuple[list[Message], str]]:
    for messages in batch["messages"]:
        yield from list(exchanges(messages))[-1 if last_only else 0 :]


def _count_replies(conversations: "datasets.Dataset") -> int:
    import pyarrow.compute

    count = 0
    for messages in _messages_of(conversations):
        roles = pyarrow.compute.struct_field(messages.flatten(), "role")
        count += pyarrow.compute.sum(pyarrow.compute.equal(roles, "assistant"), min_count=0).as_py()
    return count


def _messages_of(conversations: "datasets.Dataset") -> Iterator["pyarrow.ListArray"]:
    """The messages of all conversations in their order, many conversations at a time."""
    for batch in conversations.select_columns("messages").with_format("arrow").iter(batch_size=10_000):
        # Chosen rows come as a chunk each.
        yield from batch.combine_chunks().column("messages").chunks


def _tokenizer_state(tokenizer: Any) -> str:
    if tokenizer.is_fast:
        return tokenizer.backend_tokenizer.to_str() + str(tokenizer.chat_template)
    # A slow tokenizer, such as Marian's.
    return json.dumps([type(tokenizer).__name__, tokenizer.get_vocab(), tokenizer.chat_template], sort_keys=True)


def _content_key(conversations: "datasets.Dataset", options: dict[str, Any]) -> str:
    """A hash of what the result depends on: the conversations and the options."""
    digest = hashlib.sha256(json.dumps(options, sort_keys=True, ensure_ascii=False).encode())
    digest.update(content_digest(conversations).encode())
    return digest.hexdigest()


def content_digest(conversations: "datasets.Dataset") -> str:
    """The SHA-256 of the conversations in their order."""
    import pyarrow.compute

    digest = hashlib.sha256()
    for messages in _messages_of(conversations):
        parts = [pyarrow.compute.list_value_length(messages)]
        for name in ("role", "content"):
            texts = pyarrow.compute.struct_field(messages.flatten(), name)
            digest.update(_bytes_of(texts))
            parts.append(pyarrow.compute.binary_length(texts))
        for lengths in parts:
            digest.update(lengths.to_numpy(zero_copy_only=False).tobytes())
    return digest.hexdigest()


def _bytes_of(texts: "pyarrow.StringArray") -> memoryview:
    """All texts in UTF-8, one behind the other, as Arrow has them."""
    _, offsets, values = texts.buffers()
    starts = np.frombuffer(offsets, np.int32 if texts.type == "string" else np.int64)
    return memoryview(values)[starts[texts.offset] : starts[texts.offset + len(texts)]] if values else memoryview(b"")
