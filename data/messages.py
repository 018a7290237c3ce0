"""The messages of a conversation, checked and brought to one form."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from chatformer.conversation import Message, NotText, normalized_text


class DataError(ValueError):
    """The data cannot be used: the message says which file and row, why, and what to do."""


class NotAConversation(Exception):
    """The reason why one row cannot become a conversation."""


def clean_text(value: Any, what: str) -> str:
    """The text that a model reads, in its one form; raise a `NotAConversation` of `what` if there is none."""
    text = optional_text(value, what)
    if not text:
        raise NotAConversation(f"{what} is {'missing' if _is_missing(value) else 'empty'}")
    return text


def optional_text(value: Any, what: str) -> str:
    """The text that a model reads, "" if it is missing; raise a `NotAConversation` of `what` if it is no text."""
    if _is_missing(value):
        return ""
    # What a list of strings means depends on the data: it may be several right answers.
    if isinstance(value, list) and not all(isinstance(part, Mapping) for part in value):
        raise NotAConversation(f"{what} is not text but list")
    try:
        return normalized_text(value, what)
    except NotText as error:
        raise NotAConversation(str(error)) from error


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


_ROLE_KEYS = ("role", "from", "speaker")
_TEXT_KEYS = ("content", "value", "utterance", "text")
_ROLES = {
    **dict.fromkeys(("system", "시스템"), "system"),
    **dict.fromkeys(("user", "human", "customer", "사용자", "고객"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "chatbot", "model", "agent", "챗봇", "상담사"), "assistant"),
}
"""The usual names of roles: of chat templates, of ShareGPT, and of dialogues."""
_TURNS = ("user", "assistant")
_UNREAD_KEYS = ("tool_calls", "function_call", "images", "image", "audio", "video")
"""Parts of a message that cannot be read, although its meaning depends on them."""


def _role_key(message: Mapping[str, Any]) -> str:
    return next((key for key in _ROLE_KEYS if message.get(key) is not None), _ROLE_KEYS[0])


def _roles(messages: Sequence[Mapping[str, Any]]) -> dict[Any, str]:
    """The role that each name of a speaker means in this conversation, for the names that mean one."""
    names = list(
        dict.fromkeys(name for message in messages if isinstance(name := message.get(_role_key(message)), str | int))
    )
    roles = {name: _ROLES[str(name).strip().casefold()] for name in names if str(name).strip().casefold() in _ROLES}
    if all(message.get("speaker") is not None for message in messages):
        # The first of two speakers asks, whatever their names are.
        if not roles and len(names) == 2:
            return dict(zip(names, _TURNS, strict=True))
        # In the literature on dialogue systems, "system" is the speaker who answers.
        if "assistant" not in roles.values():
            roles = {name: "assistant" if role == "system" else role for name, role in roles.items()}
    return roles


def _clean_message(message: Mapping[str, Any], number: int, roles: Mapping[Any, str]) -> Message:
    key = _role_key(message)
    role = message.get(key)
    if not isinstance(role, str | int) or role not in roles:
        raise NotAConversation(f"message {number} has the {key} {role!r}, which is none of {', '.join(_ROLES)}")
    unread = [name for name in _UNREAD_KEYS if message.get(name)]
    if unread:
        raise NotAConversation(f"message {number}, of the {roles[role]}, has {unread[0]}, which cannot be read")
    content = next((message[name] for name in _TEXT_KEYS if message.get(name) is not None), None)
    what = f"message {number}, of the {roles[role]},"
    # An empty system message says nothing, and a template without one is what it means.
    return {
        "role": roles[role],
        "content": optional_text(content, what) if roles[role] == "system" else clean_text(content, what),
    }


def _list_of_messages(value: Any) -> list[Mapping[str, Any]]:
    if isinstance(value, str):
        # A cell of a CSV can hold a list only as JSON.
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise NotAConversation(f"the messages are text that is not a JSON list ({error})") from error
    if not isinstance(value, list) or not value:
        raise NotAConversation(
            "the messages are missing" if not value else f"the messages are not a list but {type(value).__name__}"
        )
    if all(isinstance(message, str) for message in value):
        return [{"role": _TURNS[index % 2], "content": text} for index, text in enumerate(value)]
    for number, message in enumerate(value, start=1):
        if not isinstance(message, Mapping):
            raise NotAConversation(f"message {number} is not an object with role and content")
    return value


def clean_messages(value: Any, system: Any = None) -> list[Message]:
    """
    The messages of one conversation in their one form, after the `system` message if their row has one.

    An optional system message comes first, then user and assistant speak in turn, and the assistant has the last word.
    A list of texts holds these turns. Raises a `NotAConversation` for anything else.
    """
    given = _list_of_messages(value)
    roles = _roles(given)
    messages = [_clean_message(message, number, roles) for number, message in enumerate(given, start=1)]
    first_turn = 1 if messages[0]["role"] == "system" else 0
    for index, message in enumerate(messages[first_turn:]):
        expected = _TURNS[index % 2]
        if message["role"] != expected:
            number = first_turn + index + 1
            raise NotAConversation(f"message {number} is of the {message['role']}, where the {expected} speaks")
    if messages[-1]["role"] != "assistant":
        raise NotAConversation(f"the last message, of the {messages[-1]['role']}, has no answer")
    return with_system(messages, system)


def with_system(messages: list[Message], system: Any) -> list[Message]:
    """The messages after the system message that their row has apart from them; an empty one is left out."""
    text = optional_text(system, "the system message")
    if messages[0]["role"] == "system":
        own = messages[0]["content"]
        if text and own and text != own:
            raise NotAConversation("there are two system messages, one among the messages and one apart from them")
        text, messages = text or own, messages[1:]
    return [{"role": "system", "content": text}, *messages] if text else messages


def exchanges(messages: Sequence[Message]) -> Iterator[tuple[list[Message], str]]:
    """Yield each reply of the assistant, after the messages before it."""
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            yield list(messages[:index]), message["content"]
