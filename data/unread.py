"""The parts of conversations that a model does not read, because its chat template leaves them out."""

from collections.abc import Iterable
from typing import Any

from chatformer.reading import reads_history, reads_system

from .messages import exchanges


def unread_part(tokenizer: Any, conversations: Iterable[dict[str, Any]]) -> str | None:
    """The parts that the template leaves out, and in how many exchanges; None if it leaves out nothing."""
    leaves_out_turns, leaves_out_system = not reads_history(tokenizer), not reads_system(tokenizer)
    if not (leaves_out_turns or leaves_out_system):
        return None
    num_exchanges = num_with_turns = num_with_system = 0
    for conversation in conversations:
        has_system = conversation["messages"][0]["role"] == "system"
        for history, _ in exchanges(conversation["messages"]):
            num_exchanges += 1
            num_with_turns += leaves_out_turns and len(history) > 1 + has_system
            num_with_system += leaves_out_system and has_system
    parts = [
        f"{part} ({count:,} of {num_exchanges:,} exchanges)"
        for part, count in (("the turns before a question", num_with_turns), ("a system message", num_with_system))
        if count
    ]
    return " and ".join(parts) or None
