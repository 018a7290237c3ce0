"""What a conversation is made of, and how its messages are checked and brought to one form."""

import json
import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from chatformer.conversation import Message


class DataError(ValueError):
    """The data cannot be used: the message says which file and row, why, and what to do."""


class NotAConversation(Exception):
    """The reason why one row cannot become a conversation."""


def clean_text(value: Any, what: str) -> str:
    """Return a text in Unicode's NFC, without white space around it; raise a `NotAConversation` if there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise NotAConversation(f"{what} is missing")
    if not isinstance(value, str):
        raise NotAConversation(f"{what} is not text but {type(value).__name__}")
    text = unicodedata.normalize("NFC", value).strip()
    if not text:
        raise NotAConversation(f"{what} is empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise NotAConversation(f"{what} has half a surrogate pair, U+{ord(text[error.start]):04X}") from error
    return text


_FORMS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("role", "content", {"system": "system", "user": "user", "assistant": "assistant"}),
    (
        "from",
        "value",
        {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"},
    ),
)
"""The keys of a message's role and text, and the names of roles: as chat templates have them, and as ShareGPT does."""


def _clean_message(message: Any, number: int) -> Message:
    if not isinstance(message, Mapping):
        raise NotAConversation(f"message {number} is not an object with role and content")
    role_key, content_key, roles = next((form for form in _FORMS if message.get(form[0]) is not None), _FORMS[0])
    role = message.get(role_key)
    if not isinstance(role, str) or role not in roles:
        raise NotAConversation(f"message {number} has the {role_key} {role!r}, which is none of {', '.join(roles)}")
    content = clean_text(message.get(content_key), f"message {number}, of the {roles[role]},")
    return {"role": roles[role], "content": content}


def clean_messages(value: Any) -> list[Message]:
    """
    Return the messages of one conversation in their one form.

    An optional system message comes first, then user and assistant speak in turn, and the assistant has the last word.
    Raises a `NotAConversation` for anything else.
    """
    if isinstance(value, str):
        # A cell of a CSV can hold a list only as JSON.
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise NotAConversation(f"the messages are text that is no JSON list ({error})") from error
    if not isinstance(value, list) or not value:
        raise NotAConversation(
            "the messages are missing" if not value else f"the messages are no list but {type(value).__name__}"
        )
    messages = [_clean_message(message, number) for number, message in enumerate(value, start=1)]
    first_turn = 1 if messages[0]["role"] == "system" else 0
    for index, message in enumerate(messages[first_turn:]):
        expected = ("user", "assistant")[index % 2]
        if message["role"] != expected:
            number = first_turn + index + 1
            raise NotAConversation(f"message {number} is of the {message['role']}, where the {expected} speaks")
    if messages[-1]["role"] != "assistant":
        raise NotAConversation(f"the last message, of the {messages[-1]['role']}, has no answer")
    return messages


def exchanges(messages: Sequence[Message]) -> Iterator[tuple[list[Message], str]]:
    """Yield each reply of the assistant, after the messages before it."""
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            yield list(messages[:index]), message["content"]
