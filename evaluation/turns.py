"""
Whether a model keeps its head over many turns: what was said before on other topics does no harm, and what a question
depends on is used.

The sources are those of training and chat, and the replies are found greedily.
"""

import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from chatformer.chat.engines import GREEDY, Engine
from chatformer.conversation import Message, encode_conversation, encode_conversations
from chatformer.data.exchanges import EncodedExchanges
from chatformer.training.settings import EvaluationSettings

from .scoring import batches_of_like_length, sources_with_other_histories, turns_of

if TYPE_CHECKING:
    import datasets

NUMS_BEFORE = (0, 1, 2, 3, 5)
"""Unrelated exchanges that a question is asked behind."""


@dataclass(frozen=True)
class OtherTopics:
    """Replies to single questions, by the number of exchanges on other topics before them."""

    questions: list[str]
    references: list[str]
    replies: dict[int, list[str]]

    def exact(self, num_before: int) -> float:
        """Share of replies that equal the reference, in percent."""
        return share_of_equals(self.replies[num_before], self.references)

    def unchanged(self, num_before: int) -> float:
        """Share of replies that equal the one to the question alone, in percent."""
        return share_of_equals(self.replies[num_before], self.replies[0])


@dataclass(frozen=True)
class Histories:
    """Replies to questions with turns before them, by whose turns these are: its own, another's or none."""

    questions: list[str]
    references: list[str]
    replies: dict[str, list[str]]

    def exact(self, whose: str) -> float:
        """Share of replies that equal the reference, in percent."""
        return share_of_equals(self.replies[whose], self.references)


def share_of_equals(texts: Sequence[str], others: Sequence[str]) -> float:
    return 100 * sum(map(str.__eq__, texts, others)) / len(texts)


@dataclass(frozen=True)
class Opening:
    """The first exchange of a conversation, and the system message before it, if there is one."""

    system: tuple[Message, ...]
    question: Message
    answer: Message


def openings_of(conversations: "datasets.Dataset", count: int, random: Random) -> list[Opening]:
    """At most `count` openings from all over the conversations, no two with the same question."""
    openings: dict[str, Opening] = {}
    for index in random.sample(range(len(conversations)), len(conversations)):
        messages = conversations[index]["messages"]
        first = len(messages) - len(turns_of(messages))
        opening = Opening(tuple(messages[:first]), messages[first], messages[first + 1])
        openings.setdefault(opening.question["content"], opening)
        if len(openings) == count:
            break
    return list(openings.values())


def on_other_topics(opening: Opening, openings: Sequence[Opening], count: int, random: Random) -> list[Message]:
    """The messages of `count` exchanges with other questions and other answers, or of all that there are."""
    others = [other for other in openings if other.answer["content"] != opening.answer["content"]]
    chosen = random.sample(others, min(count, len(others)))
    return [message for other in chosen for message in (other.question, other.answer)]


def ask_behind_other_topics(
    engine: Engine,
    tokenizer: Any,
    conversations: "datasets.Dataset",
    *,
    nums_before: Sequence[int] = NUMS_BEFORE,
    num_questions: int,
    max_source_tokens: int | None,
    seed: int = 0,
    show_progress: bool = False,
) -> OtherTopics:
    """
    Ask questions that open conversations, at most `num_questions`, behind exchanges that open other ones.

    Behind two exchanges a question has one more before those that it has behind one. What is longer than
    `max_source_tokens` loses its oldest exchanges, as in a chat.
    """
    random = Random(seed)
    # More than are asked, so that what comes before is of many topics where there are few questions.
    openings = openings_of(conversations, max(num_questions, 1000), random)
    asked = openings[:num_questions]
    before = [on_other_topics(opening, openings, max(nums_before), random) for opening in asked]
    sources = encode_conversations(
        tokenizer,
        [
            [*opening.system, *messages[len(messages) - 2 * min(number, len(messages) // 2) :], opening.question]
            for number in nums_before
            for opening, messages in zip(asked, before, strict=True)
        ],
        max_source_tokens,
    )
    references = [opening.answer["content"] for opening in asked]
    longest = max(map(len, tokenizer(references)["input_ids"]))
    replies = greedy_replies(engine, tokenizer, sources, longest_reference=longest, show_progress=show_progress)
    return OtherTopics(
        questions=[opening.question["content"] for opening in asked],
        references=references,
        replies={
            number: replies[place * len(asked) : (place + 1) * len(asked)] for place, number in enumerate(nums_before)
        },
    )


def ask_with_histories(
    engine: Engine,
    tokenizer: Any,
    exchanges: EncodedExchanges,
    *,
    num_questions: int,
    max_source_tokens: int | None,
    seed: int = 0,
    show_progress: bool = False,
) -> Histories | None:
    """
    Ask questions with a history, at most `num_questions`, behind it, behind another one of as many turns, and alone.

    None where no two exchanges have histories of as many turns.
    """
    other_histories = sources_with_other_histories(exchanges, tokenizer)
    if not other_histories:
        return None
    indices = sorted(Random(seed).sample(sorted(other_histories), min(num_questions, len(other_histories))))
    histories = [exchanges.histories[index] for index in indices]
    alone = [[*history[: len(history) - len(turns_of(history))], history[-1]] for history in histories]
    sources = {
        "its own": [exchanges.source(index).tolist() for index in indices],
        "another's": [other_histories[index] for index in indices],
        "none": [encode_conversation(tokenizer, messages, max_source_tokens) for messages in alone],
    }
    replies = greedy_replies(
        engine,
        tokenizer,
        [source for group in sources.values() for source in group],
        longest_reference=int(exchanges.target_lengths[indices].max()),
        show_progress=show_progress,
    )
    return Histories(
        questions=[history[-1]["content"] for history in histories],
        references=[exchanges.replies[index] for index in indices],
        replies={
            whose: replies[place * len(indices) : (place + 1) * len(indices)] for place, whose in enumerate(sources)
        },
    )


def greedy_replies(
    engine: Engine,
    tokenizer: Any,
    sources: Sequence[list[int]],
    *,
    longest_reference: int,
    show_progress: bool,
) -> list[str]:
    """The greedy reply to each source, at most half as long again as the longest reference, as in `outcome_of`."""
    search = copy.deepcopy(GREEDY)
    search.max_new_tokens = max(1, 3 * longest_reference // 2)
    replies = [""] * len(sources)
    bar = tqdm(
        total=len(sources),
        desc="replying",
        unit="question",
        disable=not show_progress,
        mininterval=0.5 if sys.stderr.isatty() else 30,
        dynamic_ncols=True,
    )
    with bar:
        for batch in batches_of_like_length([len(source) for source in sources], EvaluationSettings.batch_tokens):
            generated = engine.generate([sources[index] for index in batch], search)
            texts = tokenizer.batch_decode(generated, skip_special_tokens=True)
            for index, text in zip(batch, texts, strict=True):
                replies[index] = text
            bar.update(len(batch))
    return replies
