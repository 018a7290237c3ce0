"""From settings to what is trained on: conversations, the tokenizer, encoded exchanges."""

import contextlib
import dataclasses
import functools
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatformer.configuration.data import ReadingSettings
from chatformer.configuration.declaring import flag, given

from .arrow import messages_of
from .bad_rows import BadRows
from .conversations import Loaded, load_conversations
from .exchanges import EncodedExchanges, encode_exchanges, joined
from .messages import DataError, exchanges
from .named import STARTER, STARTER_FILES, are_names, held_out_of, named_conversations, starter_file
from .splitting import split_conversations
from .tokenizer import train_tokenizer
from .topics import SHARE_OF_OTHER_TOPICS, behind_other_topics

if TYPE_CHECKING:
    import datasets

    from chatformer.configuration.training import TrainingSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """What a run trains on and what it is validated on, as conversations and encoded."""

    training: "datasets.Dataset"
    validation: "datasets.Dataset"
    bad_rows: BadRows
    bad_validation_rows: BadRows
    tokenizer: Any
    train_exchanges: EncodedExchanges
    eval_exchanges: EncodedExchanges
    other_topics_fraction: float
    """Share of the replies that an epoch learns behind other conversations."""


def prepare_data(
    settings: "TrainingSettings",
    *,
    tokenizer: Any = None,
    main_first: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    from_main: Callable[[Callable[[], Any]], Any] = lambda make: make(),
) -> PreparedData:
    """
    Load the conversations, train the tokenizer unless one is given, and encode.

    If there are several processes, the main process enters `main_first()` before the others, and `from_main(make)`
    returns what `make` returns on the main process.
    """
    import datasets

    # The main process first: the others find in the cache what it downloaded and encoded.
    with main_first():
        loaded, loaded_validation = conversations_of(settings)
    training, validation = loaded.conversations, loaded_validation.conversations
    has_history = are_of_several_turns(training)
    fraction = settings.data.other_topics_fraction
    if fraction is None:
        fraction = SHARE_OF_OTHER_TOPICS if has_history else 0.0
    if tokenizer is None:
        reads_history = has_history or fraction > 0
        tokenizer = from_main(lambda: new_tokenizer(loaded, settings, has_history=reads_history))
    limits = settings.tokenizer.max_source_tokens, settings.tokenizer.max_target_tokens
    encode = functools.partial(
        encode_exchanges,
        tokenizer=tokenizer,
        max_source_tokens=limits[0],
        max_target_tokens=limits[1],
        num_processes=settings.data.preprocessing_num_workers,
        cache_folder=Path(datasets.config.HF_DATASETS_CACHE) / "chatformer",
    )
    with main_first():
        # Each name's exchanges by themselves, since an epoch may read some more often than others.
        train_exchanges, eval_exchanges = (
            joined([encode(part, too_long=settings.tokenizer.too_long) for part in parts_of(side)], side.times)
            for side in (loaded, loaded_validation)
        )
        if not len(train_exchanges):
            limit = f"no reply is at most --max-target-tokens ({limits[1]}) long"
            if settings.tokenizer.too_long == "drop":
                limit += f", or no input of one at most --max-source-tokens ({limits[0]})"
            raise DataError(f"Nothing is left to train on: {limit}.")
        if fraction:
            # Behind other training conversations only: validation data must not be seen. Of their turns, as many are
            # kept as there is room for.
            behind = behind_other_topics(train_exchanges, training, limits[0], seed=settings.optimization.seed)
            twins = encode(behind, too_long="truncate", last_only=True)
            train_exchanges = train_exchanges.with_behind_others(twins, fraction)
    return PreparedData(
        training=training,
        validation=validation,
        bad_rows=loaded.bad_rows,
        bad_validation_rows=loaded_validation.bad_rows,
        tokenizer=tokenizer,
        train_exchanges=train_exchanges,
        eval_exchanges=eval_exchanges,
        other_topics_fraction=fraction,
    )


def parts_of(loaded: Loaded) -> list["datasets.Dataset"]:
    """The conversations of each name by themselves, or all if they are of one."""
    if not loaded.sizes:
        return [loaded.conversations]
    starts = [0, *itertools.accumulate(loaded.sizes)]
    return [loaded.conversations.select(range(first, end)) for first, end in itertools.pairwise(starts)]


def conversations_of(settings: "TrainingSettings") -> tuple[Loaded, Loaded]:
    """The training and the validation conversations, each with the bad rows of its own data."""
    data = settings.data
    if data.data_repeats and not are_names(data.data):
        raise DataError(
            f"--data-repeats is for names of data, such as starter and emoji, and --data is {' '.join(data.data)}. "
            "Leave it out."
        )
    if are_names(data.data) and not data.validation_data:
        if len(data.data) > 1:
            return conversations_of_names(settings)
        held_out = held_out_of(data.data[0])
        if held_out is not None:
            data = dataclasses.replace(data, validation_data=(held_out,))
    loaded = read_conversations(
        data.data, data, skip_bad_rows=data.skip_bad_rows, sha256=data.data_sha256, max_rows=data.max_train_samples
    )
    if data.validation_data:
        return loaded, read_conversations(data.validation_data, data, skip_bad_rows=data.skip_bad_rows)
    training, validation = split_conversations(
        loaded.conversations,
        validation_fraction=data.validation_fraction,
        seed=settings.optimization.seed if data.split_seed is None else data.split_seed,
    )
    return Loaded(conversations=training, bad_rows=loaded.bad_rows), Loaded(
        conversations=validation, bad_rows=BadRows()
    )


def conversations_of_names(settings: "TrainingSettings") -> tuple[Loaded, Loaded]:
    """The conversations of several names, each split in its own way: by what is held out of it, or by a share."""
    import datasets

    sides: tuple[list[Any], list[Any]] = [], []
    left = settings.data.max_train_samples
    for name in settings.data.data:
        alone = dataclasses.replace(settings.data, data=(name,), data_repeats=())
        training, validation = conversations_of(dataclasses.replace(settings, data=alone))
        part = training.conversations
        if left is not None:
            part = part.select(range(min(left, len(part))))
            left -= len(part)
        sides[0].append(part)
        sides[1].append(validation.conversations)
    of_training, of_validation = (
        Loaded(
            conversations=datasets.concatenate_datasets(side),
            bad_rows=BadRows(),
            sizes=tuple(map(len, side)),
            times=times,
        )
        for side, times in zip(sides, (settings.data.data_repeats, ()), strict=True)
    )
    return of_training, of_validation


def read_conversations(
    data: tuple[str, ...], settings: "ReadingSettings", *, skip_bad_rows: bool, **options: Any
) -> Loaded:
    """
    Load `data` as the settings say; `skip_bad_rows` returns bad rows, which otherwise are an error.

    "starter" are the corpora that come with the package, and other names are those of `named`.
    """
    if are_names(data):
        columns = set() if STARTER in data else {"question_column", "answer_column"}
        names = given(settings) & {field.name for field in dataclasses.fields(ReadingSettings)} - {"data", *columns}
        if names:
            logger.warning("%s is read as it is, without %s.", ", ".join(data), ", ".join(map(flag, sorted(names))))
        options |= {name: getattr(settings, name) for name in columns}
        return named_conversations(data, **options)
    return load_conversations(
        data[0] if len(data) == 1 else data,
        question_column=settings.question_column,
        answer_column=settings.answer_column,
        messages_column=settings.messages_column,
        system_column=settings.system_column,
        context_column=settings.context_column,
        encoding=settings.encoding,
        sheet=settings.sheet,
        data_format=settings.data_format,
        split=settings.dataset_split,
        revision=settings.dataset_revision,
        streaming=settings.dataset_streaming,
        skip_bad_rows=skip_bad_rows,
        **options,
    )


def local_files(data: Iterable[str]) -> list[Path]:
    """The files of this machine that data may be read from."""
    return [
        file
        for name in data
        for file in (map(starter_file, STARTER_FILES) if name == STARTER else [Path(name).expanduser()])
    ]


def new_tokenizer(training: Loaded, settings: "TrainingSettings", *, has_history: bool) -> Any:
    """
    A tokenizer that is trained on the training conversations, each as often as an epoch reads it.

    If `has_history`, its template passes on what was said before.
    """
    parts = parts_of(training)
    texts = (
        text
        for part, times in zip(parts, training.times or [1] * len(parts), strict=True)
        for _ in range(times)
        for text in message_texts(part)
    )
    tokenizer = train_tokenizer(texts, settings.tokenizer.vocab_size, has_history=has_history)
    tokenizer.model_max_length = settings.tokenizer.max_source_tokens
    return tokenizer


def are_of_several_turns(conversations: "datasets.Dataset") -> bool:
    """True if a reply has more before it than its question."""
    return any(len(history) > 1 for messages in messages_of(conversations) for history, _ in exchanges(messages))


def message_texts(conversations: "datasets.Dataset") -> Iterator[str]:
    """Yield what the tokenizer learns from: every message."""
    for messages in messages_of(conversations):
        for message in messages:
            yield message["content"]
