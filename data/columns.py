"""Which columns hold a question and its answer, or an entire conversation, by the names that they usually have."""

import dataclasses
import difflib
import logging
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from .messages import DataError

logger = logging.getLogger(__name__)

PAIR = ("question", "answer")
"""The columns of data without column names."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """
    The columns to read: `messages`, or `question` and `answer`, or the two languages of `translation` by these names.

    `system` is a system message, and `context` a part of the question, such as the input of an instruction. `unread`
    are columns that cannot be read, although an answer may depend on them.
    """

    question: str | None = None
    answer: str | None = None
    messages: str | None = None
    translation: str | None = None
    system: str | None = None
    context: str | None = None
    unread: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """The columns of the data that are read."""
        pair = [self.translation] if self.translation is not None else [self.question, self.answer]
        return [name for name in (*pair, self.messages, self.context, self.system) if name is not None]


_PICTURE_NAMES = "picture pictures image images file_name 그림 사진"
"""The usual names of a column of pictures: in a table, their files."""

_PAIRS_OF_NAMES = (
    (
        "q question questions query prompt instruction input user human utterance 질문 질의 발화 사용자",
        "a answer answers response responses reply output completion bot assistant 답변 대답 응답 챗봇",
    ),
    ("source src", "target tgt"),
    ("text_a", "text_b"),
    ("caption captions 설명 캡션", _PICTURE_NAMES),
)
"""The usual names of a question's column, and of the answer's column that goes with it."""

_MESSAGES_NAMES = "messages conversation conversations dialog dialogs dialogue dialogues turns 대화"
_SYSTEM_NAMES = "system system_prompt system_message 시스템"
_CONTEXT_NAMES = "input context 맥락 문맥 지문"
_TRANSLATION_NAMES = "translation translations"
_UNREAD_NAMES = (
    f"{_CONTEXT_NAMES} instruction tools functions image images picture pictures audio audios video videos history "
    "document documents passage persona knowledge"
)


def _normal_name(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip().casefold()


def translation_column(columns: Sequence[str]) -> str | None:
    """The column with a text in each of two languages, if there is one."""
    return next(iter(_usual(_TRANSLATION_NAMES, columns)), None)


def is_of_pictures(column: str) -> bool:
    """True if a column of this name holds pictures."""
    return _normal_name(column) in _PICTURE_NAMES.split()


def _usual(names: str, columns: Sequence[str]) -> list[str]:
    return [column for column in columns if _normal_name(column) in names.split()]


def _named_column(name: str, columns: Sequence[str], where: str) -> str:
    if name in columns:
        return name
    hint = ""
    if len(columns) == 1:
        hint = " With one column, its separator may be another than a comma, a semicolon or a tab: save it with one."
    else:
        normal_names = {_normal_name(column): column for column in columns}
        nearest = difflib.get_close_matches(_normal_name(name), normal_names, n=1)
        hint = f" Did you mean {normal_names[nearest[0]]!r}?" if nearest else ""
    raise DataError(f"{where} has no column {name!r}; its columns are {', '.join(columns)}.{hint}")


def _optional_column(name: str | None, usual_names: str, columns: Sequence[str], where: str) -> str | None:
    if name is not None:
        return _named_column(name, columns, where)
    found = _usual(usual_names, columns)
    return found[0] if len(found) == 1 else None


def choose_columns(
    columns: Sequence[str],
    where: str,
    *,
    question_column: str | None = None,
    answer_column: str | None = None,
    messages_column: str | None = None,
    system_column: str | None = None,
    context_column: str | None = None,
    translation_keys: Sequence[str] = (),
) -> Columns:
    """
    The named columns, or else the only ones with usual names; raise a `DataError` if it is not clear which.

    `translation_keys` are the languages of a column `translation`, which are columns too.
    """
    if messages_column is not None and (question_column is not None or answer_column is not None):
        raise DataError("Pass either --messages-column, or --question-column and --answer-column, not both.")
    if messages_column is not None:
        chosen = Columns(messages=_named_column(messages_column, columns, where))
    else:
        chosen = _question_and_answer(
            columns, where, question_column, answer_column, translation_keys, context_column=context_column
        )
    rest = [column for column in columns if column not in chosen.names()]
    system = _optional_column(system_column, _SYSTEM_NAMES, rest, where)
    context = None
    if chosen.messages is None:
        context = _optional_column(context_column, _CONTEXT_NAMES, rest, where)
    elif context_column is not None:
        raise DataError("--context-column is a part of a question, and conversations were found. Leave it out.")
    unread = tuple(column for column in _usual(_UNREAD_NAMES, rest) if column not in (system, context))
    return dataclasses.replace(chosen, system=system, context=context, unread=unread)


def _question_and_answer(
    columns: Sequence[str],
    where: str,
    question_column: str | None,
    answer_column: str | None,
    translation_keys: Sequence[str],
    *,
    context_column: str | None,
) -> Columns:
    translation = translation_column(columns) if translation_keys else None
    named = {question_column, answer_column} - {None}
    if translation is not None and named and named <= {*translation_keys}:
        return _translation(translation, where, question_column, answer_column, translation_keys)
    question = None if question_column is None else _named_column(question_column, columns, where)
    answer = None if answer_column is None else _named_column(answer_column, columns, where)
    if question is not None and question == answer:
        raise DataError(f"{where}: the column {question!r} cannot be both the question and the answer. Name two.")

    def questions(names: str) -> list[str]:
        usual = [column for column in _usual(names, columns) if column != context_column]
        # Next to an instruction, an input is what the instruction is about.
        return [column for column in usual if _normal_name(column) != "input"] or usual

    # A named column may be paired with any usual name.
    pairs = [
        Columns(question=one, answer=other)
        for question_names, answer_names in _PAIRS_OF_NAMES
        for one in ([question] if question else questions(question_names))
        for other in ([answer] if answer else _usual(answer_names, columns))
        if one != other
    ]
    of_messages = [] if question or answer else [Columns(messages=name) for name in _usual(_MESSAGES_NAMES, columns)]
    candidates = list(dict.fromkeys(pairs + of_messages))
    if not candidates and translation is not None:
        return _translation(translation, where, question_column, answer_column, translation_keys)
    if len(candidates) != 1:
        names = " or ".join(" with ".join(candidate.names()) for candidate in candidates)
        raise DataError(
            f"{where}: it is not clear which columns to read" + (f", {names}. " if names else ". ") + "Its columns are "
            f"{', '.join(columns)}. Name them with --question-column and --answer-column, or --messages-column; if "
            "these are no names, put a line of names above them."
        )
    return candidates[0]


def _translation(column: str, where: str, question: str | None, answer: str | None, keys: Sequence[str]) -> Columns:
    others = [key for key in keys if key not in (question, answer)]
    if question is not None and question == answer:
        raise DataError(f"{where}: {question!r} cannot be both the question and the answer. Name two.")
    if len(keys) != 2 and (question is None or answer is None):
        raise DataError(
            f"{where}: the column {column!r} has {', '.join(keys)}. Name two with --question-column and "
            "--answer-column."
        )
    chosen = Columns(translation=column, question=question or others.pop(0), answer=answer or others.pop(0))
    if question is None and answer is None:
        logger.warning(
            "%s: read as translated from %s to %s, the order of the first row. For the other direction pass "
            "--question-column %s --answer-column %s.",
            where,
            chosen.question,
            chosen.answer,
            chosen.answer,
            chosen.question,
        )
    return chosen


def are_usual(names: Sequence[str]) -> bool:
    """True if it is clear from these names which columns to read."""
    try:
        choose_columns(names, "")
    except DataError:
        return False
    return True
