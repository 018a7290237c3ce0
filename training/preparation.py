"""From settings to what is trained on: conversations, the tokenizer, encoded exchanges."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .conversations import DataError, exchanges, load_conversations, split_conversations
from .encoding import EncodedExchanges, encode_exchanges
from .records import BAD_ROWS_FILES, RunFolder
from .settings import ReadingSettings, TrainingSettings
from .tokenizer import train_tokenizer
from .topics import SHARE_OF_OTHER_TOPICS, behind_other_topics
from .unread import unread_part

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
    other_topics_fraction: float
    """Share of the replies that are also learnt behind other conversations."""
    num_exchanges: int
    """Exchanges to learn, those behind other conversations not counted."""


def prepare_data(settings: TrainingSettings, accelerator: "Accelerator", folder: RunFolder | None) -> PreparedData:
    """Load the conversations, train the tokenizer or take that of the run that is resumed, and encode."""
    import datasets

    # The main process first: what it downloads and encodes the others find in the cache.
    with accelerator.main_process_first():
        training, validation = conversations_of(settings, folder)
    # Behind other conversations of the training alone: what validates is seen nowhere.
    has_history = any(len(history) > 1 for made in training for history, _ in exchanges(made["messages"]))
    fraction = settings.data.other_topics_fraction
    if fraction is None:
        fraction = SHARE_OF_OTHER_TOPICS if has_history else 0.0
    mixed = behind_other_topics(training, fraction, settings.optimization.seed)
    tokenizer = the_tokenizer(settings, accelerator, training, folder, has_history=has_history or bool(len(mixed)))
    if accelerator.is_main_process and (unread := unread_part(tokenizer, validation)) is not None:
        print(
            f"warning: the validation data has {unread}, which the model will not read: the training data has none, so "
            "the chat template leaves them out.",
            file=sys.stderr,
        )
    limits = settings.tokenizer.max_source_tokens, settings.tokenizer.max_target_tokens
    with accelerator.main_process_first():
        train_exchanges, mixed_exchanges, eval_exchanges = (
            encode_exchanges(
                conversations,
                tokenizer,
                *limits,
                # Of what stands before by chance, as much is kept as there is room for.
                too_long="truncate" if conversations is mixed else settings.tokenizer.too_long,
                last_only=conversations is mixed,
                num_processes=settings.data.preprocessing_num_workers,
                cache_folder=Path(datasets.config.HF_DATASETS_CACHE) / "chatformer",
            )
            for conversations in (training, mixed, validation)
        )
    if not len(train_exchanges):
        raise DataError(f"No reply is at most --max-target-tokens ({limits[1]}) long: nothing is left to train on.")
    return PreparedData(
        training=training,
        validation=validation,
        tokenizer=tokenizer,
        train_exchanges=train_exchanges.with_repeats(mixed_exchanges),
        eval_exchanges=eval_exchanges,
        other_topics_fraction=fraction,
        num_exchanges=len(train_exchanges),
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
    """
    Load `data` as the settings say; with a file for `bad_rows` those are left out and listed there.

    "starter" are the corpora that come with the package.
    """
    if data == ("starter",):
        return starter_corpus(**options)
    return load_conversations(
        data[0] if len(data) == 1 else data,
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


STARTER_FILES = ("conversations.jsonl", "follow_ups.jsonl")
"""Questions and short conversations, and conversations whose later replies need the turns before."""


def starter_corpus(*, sha256: str | None = None, max_rows: int | None = None) -> "datasets.Dataset":
    """The conversations that come with the package; raises a `DataError` for a checksum, which names one file."""
    import datasets

    if sha256 is not None:
        raise DataError("--data-sha256 is of a file of yours; the starter corpus comes with chatformer.")
    folder = resources.files("chatformer.training").joinpath("starter")
    corpus = datasets.concatenate_datasets([load_conversations(str(folder.joinpath(name))) for name in STARTER_FILES])
    return corpus if max_rows is None else corpus.select(range(min(max_rows, len(corpus))))


def the_tokenizer(
    settings: TrainingSettings,
    accelerator: "Accelerator",
    training: "datasets.Dataset",
    folder: RunFolder | None,
    *,
    has_history: bool,
) -> Any:
    """
    Return the tokenizer of the run that is resumed, or a new one, which the main process trains for all.

    Its template passes on what was said before if `has_history`.
    """
    from accelerate.utils import broadcast_object_list

    if folder is not None and settings.run.resume:
        return folder.load_tokenizer()
    shared: list[Any] = [None]
    if accelerator.is_main_process:
        shared[0] = train_tokenizer(texts_of(training), settings.tokenizer.vocab_size, has_history=has_history)
        shared[0].model_max_length = settings.tokenizer.max_source_tokens
    return broadcast_object_list(shared)[0]


def texts_of(conversations: Any) -> Iterator[str]:
    """Yield what the tokenizer learns from: every message."""
    for conversation in conversations:
        for message in conversation["messages"]:
            yield message["content"]
