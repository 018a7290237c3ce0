"""From settings to what is trained on: conversations, the tokenizer, encoded exchanges."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatformer.data.conversations import DataError, exchanges, load_conversations, split_conversations
from chatformer.data.exchanges import EncodedExchanges, encode_exchanges
from chatformer.data.tokenizer import train_tokenizer

from .records import BAD_ROWS_FILES, RunFolder
from .settings import ReadingSettings, TrainingSettings

if TYPE_CHECKING:
    import datasets
    from accelerate import Accelerator


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """What a run trains on and what it is validated on, as conversations and encoded."""

    training: "datasets.Dataset"
    validation: "datasets.Dataset"
    tokenizer: Any
    train_exchanges: EncodedExchanges
    eval_exchanges: EncodedExchanges


def prepare_data(settings: TrainingSettings, accelerator: "Accelerator", folder: RunFolder | None) -> PreparedData:
    """Load the conversations, train the tokenizer or take that of the run that is resumed, and encode."""
    import datasets

    # The main process first: what it downloads and encodes the others find in the cache.
    with accelerator.main_process_first():
        training, validation = conversations_of(settings, folder)
    tokenizer = the_tokenizer(settings, accelerator, training, folder)
    limits = settings.tokenizer.max_source_tokens, settings.tokenizer.max_target_tokens
    with accelerator.main_process_first():
        told_before = with_other_topics(training, settings.data.other_topics_fraction, settings.optimization.seed)
        encoded = [
            encode_exchanges(
                conversations,
                tokenizer,
                *limits,
                too_long=settings.tokenizer.too_long,
                num_processes=settings.data.preprocessing_num_workers,
                cache_folder=Path(datasets.config.HF_DATASETS_CACHE) / "chatformer",
            )
            for conversations in (told_before, validation)
        ]
    if not len(encoded[0]):
        raise DataError(f"No reply is at most --max-target-tokens ({limits[1]}) long: nothing is left to train on.")
    return PreparedData(
        training=training,
        validation=validation,
        tokenizer=tokenizer,
        train_exchanges=encoded[0],
        eval_exchanges=encoded[1],
    )


def conversations_of(
    settings: TrainingSettings, folder: RunFolder | None
) -> "tuple[datasets.Dataset, datasets.Dataset]":
    """Load the training and validation conversations."""
    data = settings.data

    def bad_rows(name: str) -> Path | None:
        return folder.path / name if folder is not None and data.skip_bad_rows else None

    conversations = read_conversations(
        data.data, data, bad_rows=bad_rows(BAD_ROWS_FILES[0]), sha256=data.data_sha256, max_rows=data.max_train_samples
    )
    if data.validation_data:
        return conversations, read_conversations(data.validation_data, data, bad_rows=bad_rows(BAD_ROWS_FILES[1]))
    return split_conversations(
        conversations, validation_fraction=data.validation_fraction, seed=settings.optimization.seed
    )


def read_conversations(
    data: tuple[str, ...], settings: ReadingSettings, *, bad_rows: Path | None, **options: Any
) -> "datasets.Dataset":
    """Load `data` as the settings say; with a file for `bad_rows` those are left out and listed there."""
    return load_conversations(
        paths_of(data),
        question_column=settings.question_column,
        answer_column=settings.answer_column,
        messages_column=settings.messages_column,
        encoding=settings.encoding,
        split=settings.dataset_split,
        revision=settings.dataset_revision,
        streaming=settings.dataset_streaming,
        skip_bad_rows=bad_rows,
        **options,
    )


def paths_of(data: tuple[str, ...]) -> str | tuple[str, ...]:
    """Return where `data` lies; "starter" is the corpus that comes with the package."""
    if data == ("starter",):
        return str(resources.files("chatformer.data").joinpath("starter/conversations.jsonl"))
    return data[0] if len(data) == 1 else data


def the_tokenizer(
    settings: TrainingSettings, accelerator: "Accelerator", training: "datasets.Dataset", folder: RunFolder | None
) -> Any:
    """Return the tokenizer of the run that is resumed, or a new one, which the main process trains for all."""
    from accelerate.utils import broadcast_object_list

    if folder is not None and settings.run.resume:
        return folder.load_tokenizer()
    shared: list[Any] = [None]
    if accelerator.is_main_process:
        has_history = any(len(history) > 1 for made in training for history, _ in exchanges(made["messages"]))
        shared[0] = train_tokenizer(texts_of(training), settings.tokenizer.vocab_size, has_history=has_history)
        shared[0].model_max_length = settings.tokenizer.max_source_tokens
    return broadcast_object_list(shared)[0]


def texts_of(conversations: Any) -> Iterator[str]:
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
