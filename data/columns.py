"""Which columns hold a question and its answer, or an entire conversation, by the names that they usually have."""

import difflib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from .messages import DataError


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns to read: either `messages`, or `question` and `answer`."""

    question: str | None = None
    answer: str | None = None
    messages: str | None = None

    def names(self) -> list[str]:
        return [name for name in (self.question, self.answer, self.messages) if name is not None]


_PAIRS_OF_NAMES = (
    (
        "q question questions query prompt instruction input user human utterance 질문 질의 발화 사용자",
        "a answer answers response responses reply output completion bot assistant 답변 대답 응답 챗봇",
    ),
    ("source src", "target tgt"),
    ("text_a", "text_b"),
)
"""The usual names of a question's column, and of the answer's column that goes with it."""

_MESSAGES_NAMES = "messages conversation conversations dialog dialogs dialogue dialogues turns 대화"


def _normal_name(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip().casefold()


def _named_column(name: str, columns: Sequence[str], where: str) -> str:
    if name in columns:
        return name
    normal_names = {_normal_name(column): column for column in columns}
    nearest = difflib.get_close_matches(_normal_name(name), normal_names, n=1)
    hint = f" Did you mean {normal_names[nearest[0]]!r}?" if nearest else ""
    raise DataError(f"{where} has no column {name!r}; its columns are {', '.join(columns)}.{hint}")


def choose_columns(
    columns: Sequence[str],
    where: str,
    *,
    question_column: str | None,
    answer_column: str | None,
    messages_column: str | None,
) -> Columns:
    """The columns that were named, or else the only ones with usual names; raise a `DataError` unless it is clear."""
    if messages_column is not None and (question_column is not None or answer_column is not None):
        raise DataError("Pass either --messages-column, or --question-column and --answer-column, not both.")
    if messages_column is not None:
        return Columns(messages=_named_column(messages_column, columns, where))

    question = None if question_column is None else _named_column(question_column, columns, where)
    answer = None if answer_column is None else _named_column(answer_column, columns, where)
    if question is not None and question == answer:
        raise DataError(f"{where}: the column {question!r} cannot be both the question and the answer. Name two.")

    def usual(names: str) -> list[str]:
        return [column for column in columns if _normal_name(column) in names.split()]

    # A column that was named goes with the usual names of any pair.
    pairs = [
        Columns(question=one, answer=other)
        for question_names, answer_names in _PAIRS_OF_NAMES
        for one in ([question] if question else usual(question_names))
        for other in ([answer] if answer else usual(answer_names))
        if one != other
    ]
    of_messages = [] if question or answer else [Columns(messages=name) for name in usual(_MESSAGES_NAMES)]
    candidates = list(dict.fromkeys(pairs + of_messages))
    if len(candidates) != 1:
        names = " or ".join(" with ".join(candidate.names()) for candidate in candidates)
        raise DataError(
            f"{where}: it is not clear which columns to read" + (f", {names}. " if names else ". ") + "Its columns are "
            f"{', '.join(columns)}. Name them with --question-column and --answer-column, or --messages-column."
        )
    return candidates[0]
