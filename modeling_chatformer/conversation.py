"""From a conversation to the ids of a source: training and every kind of chat use this file."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

Message = dict[str, str]
"""`{"role": ..., "content": ...}`."""
Conversation = Sequence[Mapping[str, str]]
"""Messages in their order."""


def turn(role: str, text: str) -> Message:
    """A message, normalized (NFC) as the training text is: keyboards and files may use other forms."""
    return {"role": role, "content": unicodedata.normalize("NFC", text)}


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
    while len(ids) > max_tokens:
        if len(turns) <= 1:
            return ids[-max_tokens:]
        turns = turns[2:] if turns[0]["role"] == "user" else turns[1:]
        (ids,) = as_template(tokenizer, [system + turns])
    return ids


def as_template(tokenizer: Any, conversations: Sequence[Conversation]) -> list[list[int]]:
    """The ids of each conversation, however long."""
    return tokenizer.apply_chat_template(
        conversations,
        tokenize=True,
        return_dict=False,
        tokenizer_kwargs={
            "return_attention_mask": False,
            "return_token_type_ids": False,
            # No warning of lengths that are cut afterwards.
            "verbose": False,
        },
    )
