"""From a conversation to the ids of a source: training and every kind of chat use this file."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

Message = dict[str, str]
"""`{"role": ..., "content": ...}`."""
Conversation = Sequence[Mapping[str, Any]]
"""Messages in their order; a content may be a list of parts of text."""

# The white space of Unicode ends at U+3000; the other three are spaces without a width.
OUTER_SPACE = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\u200b\u2060\ufeff"

# White space, control characters, the empty Braille pattern, and what Unicode calls "default ignorable": soft hyphens,
# fillers of Hangul, marks of direction, variation selectors.
INVISIBLE = re.compile(
    r"[\s\x00-\x1f\x7f-\x9f\u2800\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    r"\U000e0000-\U000e0fff]*"
)


class NotText(ValueError):
    """What should be a text is none; the message names it and says what it is instead."""


def normalized_text(value: Any, what: str = "The text") -> str:
    """
    The text that a model reads, in the one form that training and every kind of chat share.

    Unicode's NFC, lines that end in "\\n", no white space around it; "" if nothing of it is visible. The text parts of
    a content in parts, `[{"type": "text", "text": ...}]`, are joined. Raises a `NotText`, which calls it `what`, for
    anything else, and for a text with bytes that could not be decoded.
    """
    if isinstance(value, list | tuple):
        value = "".join(text_of_part(part, what) for part in value)
    if value is None:
        raise NotText(f"{what} is missing")
    if not isinstance(value, str):
        raise NotText(f"{what} is not text but {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        surrogate = ord(value[error.start])
        # Python decodes an undecodable byte to U+DC00 + byte.
        is_byte = 0xDC80 <= surrogate <= 0xDCFF
        found = f"the byte 0x{surrogate - 0xDC00:02X}, which is not UTF-8" if is_byte else "half a surrogate pair"
        raise NotText(f"{what} has {found} (U+{surrogate:04X})") from error
    if INVISIBLE.fullmatch(value):
        return ""
    return unicodedata.normalize("NFC", value).replace("\r\n", "\n").replace("\r", "\n").strip(OUTER_SPACE)


def text_of_part(part: Any, what: str) -> str:
    """The text of a part of a content; raise a `NotText` if the part is another medium."""
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if kind != "text" or not isinstance(part.get("text"), str):
        raise NotText(f"{what} has a part that is not text but {kind!r}")
    return part["text"]


def turn(role: str, text: str) -> Message:
    """A message with its text in the one form."""
    return {"role": role, "content": normalized_text(text)}


def normalized_conversation(messages: Conversation) -> list[dict[str, Any]]:
    """The messages with their contents as `normalized_text` has them; an empty system message is left out."""
    normalized = []
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping):
            raise NotText(f"Message {number} must have a role and a content, but it is {type(message).__name__}")
        content = normalized_text(message.get("content"), f"The content of message {number}")
        if content or message.get("role") != "system":
            normalized.append({**message, "content": content})
    return normalized


def max_source_tokens(tokenizer: Any) -> int | None:
    """The longest source that a model was trained on, or None if its tokenizer does not say."""
    # Without a length, transformers puts a very large number there.
    return None if tokenizer.model_max_length >= 10**9 else tokenizer.model_max_length


def encode_conversation(tokenizer: Any, messages: Conversation, max_tokens: int | None = None) -> list[int]:
    """
    The ids of a conversation in the form of the tokenizer's chat template.

    If there are more than `max_tokens`, complete exchanges are left out, the oldest first; a system message and the
    last user turn stay. A last turn that is too long alone loses its beginning.
    """
    (ids,) = encode_conversations(tokenizer, [messages], max_tokens)
    return ids


def encode_conversations(
    tokenizer: Any, conversations: Sequence[Conversation], max_tokens: int | None = None
) -> list[list[int]]:
    """The ids of each conversation, as `encode_conversation` gives them; at least one conversation."""
    encoded = as_template(tokenizer, conversations)
    if max_tokens is None:
        return encoded
    return [
        ids if len(ids) <= max_tokens else cut(tokenizer, messages, ids, max_tokens)
        for messages, ids in zip(conversations, encoded, strict=True)
    ]


def cut(tokenizer: Any, messages: Conversation, ids: list[int], max_tokens: int) -> list[int]:
    """The ids of the part of `messages` that fits `max_tokens`; `ids` are those of all messages."""
    system = [message for message in messages[:1] if message["role"] == "system"]
    turns = list(messages[len(system) :])
    # Where the conversation can begin: at each exchange, and at the last turn, which stays.
    starts, start = [], 0
    while start < len(turns) - 1:
        start = min(start + (2 if turns[start]["role"] == "user" else 1), len(turns) - 1)
        starts.append(start)
    # The first one that fits; halving, since a conversation of a stranger may have thousands of turns.
    while starts:
        middle = (len(starts) - 1) // 2
        (ids,) = as_template(tokenizer, [system + turns[starts[middle] :]])
        if len(starts) == 1:
            break
        starts = starts[: middle + 1] if len(ids) <= max_tokens else starts[middle + 1 :]
    return ids[-max_tokens:]


def as_template(tokenizer: Any, conversations: Sequence[Conversation]) -> list[list[int]]:
    """The ids of each conversation, however long."""
    texts = tokenizer.apply_chat_template(
        [normalized_conversation(messages) for messages in conversations], tokenize=False
    )
    return ids_of_texts(tokenizer, texts, add_special_tokens=False)


def ids_of_texts(
    tokenizer: Any,
    texts: list[str],
    *,
    add_special_tokens: bool = True,
    split_special_tokens: bool = False,
    as_target: bool = False,
) -> list[list[int]]:
    """
    The ids of at least one text, as a call of the tokenizer gives them; `as_target` is its `text_target`.

    In half of the call's time where its tokenizer neither has a target's form nor needs its call.
    """
    from transformers import PreTrainedTokenizerFast

    # A subclass may have a form of its own for targets.
    if type(tokenizer) is PreTrainedTokenizerFast:
        backend = tokenizer.backend_tokenizer
        # The call before this one may have cut or padded, which the next call ends.
        if backend.truncation is None and backend.padding is None:
            if backend.encode_special_tokens != split_special_tokens:
                backend.encode_special_tokens = split_special_tokens
            # Without the places of the tokens in the text.
            return [encoded.ids for encoded in backend.encode_batch_fast(texts, add_special_tokens=add_special_tokens)]
    return tokenizer(
        **{"text_target" if as_target else "text": texts},
        add_special_tokens=add_special_tokens,
        split_special_tokens=split_special_tokens,
        return_attention_mask=False,
        return_token_type_ids=False,
        # No warning of lengths that are cut afterwards.
        verbose=False,
    )["input_ids"]
