"""Changes of subject: conversations behind others that have nothing to do with them."""

import random
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from chatformer.conversation import Message

from .arrow import are_few, as_dataset, messages_of, records
from .exchanges import EncodedExchanges

if TYPE_CHECKING:
    import datasets

MOST_OTHER_CONVERSATIONS = 4

SHARE_OF_OTHER_TOPICS = 0.25
"""The default share of the replies, if conversations have several turns."""


REPLIES_MEASURED = 1000

MOST_TWINS, ENOUGH_TWINS = 4, 40_000
"""How often an exchange is put behind others at most, and how many of such twins are enough: little data is read in
many epochs, which would otherwise find an exchange behind the same others each time, and learn these with it."""


def num_twins(exchanges: EncodedExchanges) -> int:
    """How often each exchange that an epoch reads is put behind others."""
    return max(1, min(MOST_TWINS, ENOUGH_TWINS // max(1, len(exchanges.readings))))


def tokens_per_character(exchanges: EncodedExchanges) -> float:
    """Of the first replies."""
    replies = exchanges.rows[:REPLIES_MEASURED]["reply"]
    return float(exchanges.target_lengths[: len(replies)].sum() / max(1, sum(map(len, replies))))


def length_of(messages: list[Message]) -> int:
    """In characters."""
    return sum(len(message["content"]) for message in messages)


def behind_other_topics(
    exchanges: EncodedExchanges, conversations: "datasets.Dataset", max_source_tokens: int, *, seed: int
) -> "datasets.Dataset":
    """
    Each exchange that an epoch reads as a conversation that ends with its reply, behind one to four `conversations`.

    That `num_twins` times, each time behind different ones. So a model learns that what was said before need not
    concern the last question. The seed decides which others. An exchange that begins with a system message stays as it
    is, since that message is about its own conversation. Others for which a source of `max_source_tokens` has no room
    are left out here, as far as their length tells, since encoding them would take most of the time.
    """
    chance = random.Random(seed)
    # To read one by itself takes as long as encoding it; all are read once, and kept if they are few.
    in_order: Iterable[list[Message]] = messages_of(conversations)
    known = conversations["messages"]
    if are_few(len(conversations)):
        in_order = known = list(in_order)
    openings = [index for index, messages in enumerate(in_order) if messages[0]["role"] != "system"]
    rows = exchanges.rows if exchanges.repeated is None else exchanges.rows.select(exchanges.repeated)
    room = max_source_tokens / tokens_per_character(exchanges)

    def mixed() -> Iterator[list[Message]]:
        for row in (row for _ in range(num_twins(exchanges)) for row in records(rows)):
            messages = row["history"]
            if messages[0]["role"] != "system":
                others = chance.choices(openings, k=chance.randint(1, MOST_OTHER_CONVERSATIONS))
                # The nearest always, of which as much is kept as there is room for.
                left = room - length_of(messages) - length_of(known[others[0]])
                messages = [*known[others[0]], *messages]
                for other in others[1:]:
                    left -= length_of(known[other])
                    if left < 0:
                        break
                    messages = [*known[other], *messages]
            yield [*messages, {"role": "assistant", "content": row["reply"]}]

    return as_dataset(mixed())
