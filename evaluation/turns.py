"""
Whether a model copes with many turns: earlier turns on other topics do not change its replies, and turns that a
question depends on do.

The sources are those of training and chat; the replies are greedy.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from chatformer.chat.engines import GREEDY, Engine
from chatformer.configuration.evaluation import EvaluationSettings
from chatformer.conversation import Message, encode_conversation, encode_conversations
from chatformer.data.exchanges import EncodedExchanges
from chatformer.storage.bars import progress_bar

from .scoring import batches_of_like_length, sources_with_other_histories, turns_of

if TYPE_CHECKING:
    import datasets

NUMS_BEFORE = (0, 1, 2, 3, 5)
"""Numbers of unrelated exchanges before a question."""


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
    """Replies to questions after turns, by whose turns they are: the question's own, another's or none."""

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
    """The messages of up to `count` exchanges with other questions and other answers."""
    others = [other for other in openings if other.answer["content"] != opening.answer["content"]]
    sample = random.sample(others, min(count, len(others)))
    return [message for other in sample for message in (other.question, other.answer)]


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
    Ask questions that open conversations, at most `num_questions`, after exchanges that open other ones.

    Each number of exchanges keeps those of the smaller numbers and puts others before them. A source that is longer
    than `max_source_tokens` loses its oldest exchanges, as in a chat.
    """
    random = Random(seed)
    # More openings than questions, so that the exchanges before a few questions are on many topics.
    openings = openings_of(conversations, max(num_questions, 1000), random)
    selection = openings[:num_questions]
    histories = [on_other_topics(opening, openings, max(nums_before), random) for opening in selection]
    sources = encode_conversations(
        tokenizer,
        [
            [*opening.system, *messages[len(messages) - 2 * min(number, len(messages) // 2) :], opening.question]
            for number in nums_before
            for opening, messages in zip(selection, histories, strict=True)
        ],
        max_source_tokens,
    )
    references = [opening.answer["content"] for opening in selection]
    longest = max(map(len, tokenizer(references)["input_ids"]))
    replies = greedy_replies(engine, tokenizer, sources, longest_reference=longest, show_progress=show_progress)
    return OtherTopics(
        questions=[opening.question["content"] for opening in selection],
        references=references,
        replies={
            number: replies[place * len(selection) : (place + 1) * len(selection)]
            for place, number in enumerate(nums_before)
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
    Ask questions with a history, at most `num_questions`, after it, after another one of as many turns, and alone.

    None if no two exchanges have histories of as many turns.
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
    """The greedy reply to each source, at most 1.5 times as long as the longest reference, as in `outcome_of`."""
    search = copy.deepcopy(GREEDY)
    search.max_new_tokens = max(1, 3 * longest_reference // 2)
    replies = [""] * len(sources)
    with progress_bar(total=len(sources), description="replying", unit="question", shown=show_progress) as bar:
        for batch in batches_of_like_length([len(source) for source in sources], EvaluationSettings.batch_tokens):
            ids = engine.generate([sources[index] for index in batch], search)
            texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
            for index, text in zip(batch, texts, strict=True):
                replies[index] = text
            bar.update(len(batch))
    return replies
