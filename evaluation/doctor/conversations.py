"""Conversations as the checks look at them."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from chatformer.conversation import Message
from chatformer.data.messages import exchanges

from .findings import shortened

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class Exchange:
    """Hold a reply and what was said before it, with the number of its conversation, counted from 1."""

    conversation: int
    history: tuple[str, ...]
    answer: str

    @property
    def question(self) -> str:
        return self.history[-1]

    @cached_property
    def source(self) -> tuple[str, ...]:
        """What was said before, whatever its case and spacing."""
        return tuple(map(normal, self.history))

    @cached_property
    def reply(self) -> str:
        """The answer, whatever its case and spacing."""
        return normal(self.answer)

    def __str__(self) -> str:
        return f"conversation {self.conversation}: {shortened(self.question)} → {shortened(self.answer)}"


class Conversations:
    """Conversations as the checks look at them, read once: whole, and reply by reply. There is one at least."""

    def __init__(self, dataset: "datasets.Dataset"):
        self.dataset = dataset
        self.messages: list[list[Message]] = list(dataset["messages"])
        self.exchanges = [
            Exchange(number, tuple(message["content"] for message in history), answer)
            for number, messages in enumerate(self.messages, start=1)
            for history, answer in exchanges(messages)
        ]

    def __len__(self) -> int:
        return len(self.messages)


def normal(text: str) -> str:
    return " ".join(text.split()).casefold()
