"""Conversations as the checks see them."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from chatformer.conversation import Message
from chatformer.data.arrow import messages_of
from chatformer.data.messages import exchanges
from chatformer.evaluation.shortening import shortened

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class Exchange:
    """A reply and the turns before it, with the number of its conversation, counted from 1."""

    conversation: int
    history: tuple[str, ...]
    answer: str

    @property
    def question(self) -> str:
        return self.history[-1]

    @cached_property
    def source(self) -> tuple[str, ...]:
        """The turns before, regardless of case and spacing."""
        return tuple(map(normal, self.history))

    @cached_property
    def reply(self) -> str:
        """The answer, regardless of case and spacing."""
        return normal(self.answer)

    def __str__(self) -> str:
        return f"conversation {self.conversation}: {shortened(self.question)} → {shortened(self.answer)}"


class Conversations:
    """At least one conversation, read once: the messages of each, and every reply with the turns before it."""

    def __init__(self, dataset: "datasets.Dataset"):
        self.dataset = dataset
        self.messages: list[list[Message]] = list(messages_of(dataset))
        self.exchanges = [
            Exchange(number, tuple(message["content"] for message in history), answer)
            for number, messages in enumerate(self.messages, start=1)
            for history, answer in exchanges(messages)
        ]

    def __len__(self) -> int:
        return len(self.messages)


def normal(text: str) -> str:
    return " ".join(text.split()).casefold()
