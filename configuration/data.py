"""The settings of data: which conversations are read, how they are split, and how text becomes tokens."""

from dataclasses import dataclass
from typing import Annotated, Literal

from .declaring import AtLeast, Elsewhere, Needs, Seed, Share, Without

BleuTokenize = Literal["13a", "intl", "char", "zh", "ja-mecab", "ko-mecab", "none"]
"""What sacreBLEU counts as words."""

OF_DATA = Needs("data", "training_data", "subject")
"""Of settings that say how to read what one of these names."""


@dataclass(frozen=True, kw_only=True)
class ReadingSettings:
    """Which conversations are read, and how."""

    data: Annotated[tuple[str, ...], Elsewhere("train_file")] = ()
    """The conversations: a CSV, TSV, Excel, JSON, JSON Lines or Parquet file, a .txt with a tab between question and
    answer, a URL, a Hub dataset id, or two text files, line by line question and answer; "starter" is the corpus that
    comes with chatformer, "digits" and "emoji" are pictures to draw, and "tunes" and "essen" melodies to write. A
    column of pictures in a table holds their files. A .txt without tabs is prose to go on writing."""
    question_column: Annotated[str | None, OF_DATA] = None
    """Column of the question; found by the usual names unless given."""
    answer_column: Annotated[str | None, OF_DATA] = None
    """Column of the answer; found by the usual names unless given."""
    messages_column: Annotated[str | None, OF_DATA] = None
    """Column of conversations, lists of role and content."""
    system_column: Annotated[str | None, OF_DATA] = None
    """Column of system messages; found by the usual names unless given."""
    context_column: Annotated[str | None, OF_DATA] = None
    """Column of what a question is about, such as the input of an instruction, which is read after it; found by the
    usual names unless given."""
    sheet: Annotated[str | None, OF_DATA] = None
    """Sheet of an Excel file; the first unless given."""
    encoding: Annotated[str | None, OF_DATA] = None
    """Encoding of text files, such as cp949; found out unless given."""
    data_format: Annotated[Literal["pairs", "prose"] | None, OF_DATA] = None
    """What text files are: "pairs" of a question and an answer, with a tab between them or line by line in two files,
    or "prose", of which a model learns to go on writing. Unless given, one .txt without tabs, or three and more, are
    prose."""
    dataset_split: Annotated[str, OF_DATA] = "train"
    """Split of a Hub dataset."""
    dataset_revision: Annotated[str | None, OF_DATA] = None
    """Commit, tag or branch of a Hub dataset."""
    dataset_streaming: Annotated[bool, OF_DATA] = False
    """Read a Hub dataset row by row, without keeping a copy of its files."""
    skip_bad_rows: Annotated[bool, OF_DATA] = False
    """Leave out rows that are empty or broken, and list them in a file, instead of stopping."""


@dataclass(frozen=True, kw_only=True)
class DataSettings(ReadingSettings):
    """Where the conversations come from."""

    data_repeats: Annotated[tuple[int, ...], Without("validation_data")] = ()
    """Of several names in --data, how often an epoch has each, so that a little of one kind is learnt beside much of
    another; once unless given."""
    data_sha256: str | None = None
    """What the data file's SHA-256 must be; another file is refused."""
    validation_data: Annotated[tuple[str, ...], Elsewhere("validation_file", "val_data")] = ()
    """Conversations to validate on, instead of a fraction of --data."""
    validation_fraction: Annotated[Share, Without("validation_data")] = 0.05
    """Share of the conversations that is kept for validation. Equal questions stay on one side."""
    split_seed: Annotated[Seed | None, Without("validation_data")] = None
    """Says which conversations are kept for validation; --seed unless given. Models of other seeds and one split can be
    put together by `chatformer ensemble`, since none has learnt what another is judged by."""
    max_train_samples: Annotated[int, AtLeast(1)] | None = None
    """Use only the first so many rows of --data."""
    other_topics_fraction: Share | None = None
    """Share of the replies that an epoch learns behind one to four other conversations instead of alone, others each
    time, for chats that change the subject; unless given, 0.25 if conversations have several turns, and 0 otherwise.
    With it a model of single questions reads what was said before, and learns to ignore it."""
    token_dropout: Share = 0.0
    """Share of the sources' tokens that are left out, others each time: noise against learning by heart."""
    word_swap: Share = 0.0
    """Share of the sources' words that change places with their neighbour, others each time."""
    bpe_dropout: Share | None = None
    """Share of merges that are skipped when sources are split into tokens, others each time (Provilkov et al.,
    2020); planned from the data unless given."""
    preprocessing_num_workers: Annotated[int, AtLeast(1)] | None = None
    """Processes that encode the data; as many as there are cores and data for unless given."""


@dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    """How text becomes tokens."""

    vocab_size: Annotated[int, AtLeast(1)] = 8000
    """Most tokens that the byte-pair encoding may have; small data gives fewer."""
    max_source_tokens: Annotated[int, AtLeast(1)] = 128
    """Longest input; --too-long says what becomes of longer ones."""
    max_target_tokens: Annotated[int, AtLeast(1)] = 128
    """Longest reply; --too-long says what becomes of longer ones."""
    too_long: Literal["truncate", "drop", "refuse"] = "truncate"
    """What becomes of what is too long: "truncate" leaves out the oldest turns of an input, and exchanges whose reply
    is too long; "drop" leaves out every exchange with a part that is too long; "refuse" stops. What is left out is
    counted."""
