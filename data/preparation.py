"""From settings to what is trained on: conversations, the tokenizer, encoded exchanges."""

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .bad_rows import BadRows
from .conversations import Loaded, load_conversations
from .exchanges import EncodedExchanges, encode_exchanges
from .messages import DataError, exchanges
from .splitting import split_conversations
from .tokenizer import train_tokenizer

if TYPE_CHECKING:
    import datasets

    from chatformer.training.settings import ReadingSettings, TrainingSettings


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


def prepare_data(
    settings: "TrainingSettings",
    *,
    tokenizer: Any = None,
    main_first: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    from_main: Callable[[Callable[[], Any]], Any] = lambda make: make(),
) -> PreparedData:
    """
    Load the conversations, train the tokenizer unless one is given, and encode.

    If there are several processes, the main one enters `main_first()` before the others, and `from_main(make)` returns
    what `make` returns on the main one.
    """
    import datasets

    # The main process first: what it downloads and encodes the others find in the cache.
    with main_first():
        loaded, loaded_validation = conversations_of(settings)
    training, validation = loaded.conversations, loaded_validation.conversations
    if tokenizer is None:
        tokenizer = from_main(lambda: new_tokenizer(training, settings))
    limits = settings.tokenizer.max_source_tokens, settings.tokenizer.max_target_tokens
    with main_first():
        mixed = with_other_topics(training, settings.data.other_topics_fraction, settings.optimization.seed)
        encoded = [
            encode_exchanges(
                conversations,
                tokenizer,
                *limits,
                too_long=settings.tokenizer.too_long,
                num_processes=settings.data.preprocessing_num_workers,
                cache_folder=Path(datasets.config.HF_DATASETS_CACHE) / "chatformer",
            )
            for conversations in (mixed, validation)
        ]
    if not len(encoded[0]):
        raise DataError(f"No reply is at most --max-target-tokens ({limits[1]}) long: nothing is left to train on.")
    return PreparedData(
        training=training,
        validation=validation,
        bad_rows=loaded.bad_rows,
        bad_validation_rows=loaded_validation.bad_rows,
        tokenizer=tokenizer,
        train_exchanges=encoded[0],
        eval_exchanges=encoded[1],
    )


def conversations_of(settings: "TrainingSettings") -> tuple[Loaded, Loaded]:
    """The training and the validation conversations, each with the bad rows of its own data."""
    data = settings.data
    loaded = read_conversations(
        data.data, data, skip_bad_rows=data.skip_bad_rows, sha256=data.data_sha256, max_rows=data.max_train_samples
    )
    if data.validation_data:
        return loaded, read_conversations(data.validation_data, data, skip_bad_rows=data.skip_bad_rows)
    training, validation = split_conversations(
        loaded.conversations, validation_fraction=data.validation_fraction, seed=settings.optimization.seed
    )
    return Loaded(conversations=training, bad_rows=loaded.bad_rows), Loaded(
        conversations=validation, bad_rows=BadRows()
    )


def read_conversations(
    data: tuple[str, ...], settings: "ReadingSettings", *, skip_bad_rows: bool, **options: Any
) -> Loaded:
    """Load `data` as the settings say; `skip_bad_rows` returns bad rows, which otherwise are an error."""
    return load_conversations(
        paths_of(data),
        question_column=settings.question_column,
        answer_column=settings.answer_column,
        messages_column=settings.messages_column,
        encoding=settings.encoding,
        split=settings.dataset_split,
        revision=settings.dataset_revision,
        streaming=settings.dataset_streaming,
        skip_bad_rows=skip_bad_rows,
        **options,
    )


def paths_of(data: tuple[str, ...]) -> str | tuple[str, ...]:
    """The paths in `data`; "starter" is the corpus that comes with the package."""
    if data == ("starter",):
        return str(resources.files("chatformer.data").joinpath("starter/conversations.jsonl"))
    return data[0] if len(data) == 1 else data


def new_tokenizer(training: "datasets.Dataset", settings: "TrainingSettings") -> Any:
    """A tokenizer that is trained on the training conversations."""
    has_history = any(
        len(history) > 1 for conversation in training for history, _ in exchanges(conversation["messages"])
    )
    tokenizer = train_tokenizer(message_texts(training), settings.tokenizer.vocab_size, has_history=has_history)
    tokenizer.model_max_length = settings.tokenizer.max_source_tokens
    return tokenizer


def message_texts(conversations: Any) -> Iterator[str]:
    """Yield what the tokenizer learns from: every message."""
    for conversation in conversations:
        for message in conversation["messages"]:
            yield message["content"]


def with_other_topics(conversations: "datasets.Dataset", fraction: float, seed: int) -> "datasets.Dataset":
    """
    Return the conversations, and behind `fraction` of them once more after another one.

    So a model learns that the turns before need not concern the last one.
    """
    import datasets

    chance = random.Random(seed)
    told = []
    for index in range(len(conversations) if fraction else 0):
        if chance.random() < fraction:
            before = conversations[chance.randrange(len(conversations))]["messages"]
            messages = conversations[index]["messages"]
            if "system" not in (before[0]["role"], messages[0]["role"]):
                told.append({"messages": [*before, *messages]})
    if not told:
        return conversations
    return datasets.concatenate_datasets([conversations, datasets.Dataset.from_list(told, conversations.features)])
