"""The parts of a conversation that a model reads: its tokenizer's chat template decides."""

from typing import Any

from .conversation import encode_conversations

QUESTION = {"role": "user", "content": "c"}


def reads_history(tokenizer: Any) -> bool:
    """True if the chat template passes on the turns before the last question."""
    return _makes_a_difference(tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])


def reads_system(tokenizer: Any) -> bool:
    """True if the chat template passes on a system message."""
    return _makes_a_difference(tokenizer, [{"role": "system", "content": "a"}])


def _makes_a_difference(tokenizer: Any, before: list[dict[str, str]]) -> bool:
    """True if a question has other ids behind the messages `before` than alone."""
    behind_others, alone = encode_conversations(tokenizer, [[*before, QUESTION], [QUESTION]])
    return behind_others != alone
