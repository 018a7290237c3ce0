"""Changes of subject: conversations behind others that have nothing to do with them."""

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

from chatformer.conversation import Message

from .arrow import as_dataset, messages_of
from .exchanges import EncodedExchanges

if TYPE_CHECKING:
    import datasets

MOST_OTHER_CONVERSATIONS = 4

SHARE_OF_OTHER_TOPICS = 0.25
"""The default share of the replies, if conversations have several turns."""


MOST_TWINS, ENOUGH_TWINS = 8, 40_000
"""How often an exchange is put behind others at most, and how many of such twins are enough: little data is read in
many epochs, which would otherwise find an exchange behind the same others each time, and learn these with it."""


def num_twins(exchanges: EncodedExchanges) -> int:
    """How often each exchange that an epoch reads is put behind others."""
    return max(1, min(MOST_TWINS, ENOUGH_TWINS // max(1, len(exchanges.readings))))


def behind_other_topics(
    exchanges: EncodedExchanges, conversations: "datasets.Dataset", seed: int
) -> "datasets.Dataset":
    """
    Each exchange that an epoch reads as a conversation that ends with its reply, behind one to four `conversations`.

    That `num_twins` times, each time behind different ones. So a model learns that what was said before need not
    concern the last question. The seed decides which others. An exchange that begins with a system message stays as it
    is, since that message is about its own conversation.
    """
    chance = random.Random(seed)
    openings = [index for index, messages in enumerate(messages_of(conversations)) if messages[0]["role"] != "system"]

    rows = exchanges.rows if exchanges.repeated is None else exchanges.rows.select(exchanges.repeated)

    def mixed() -> Iterator[list[Message]]:
        for row in (row for _ in range(num_twins(exchanges)) for row in rows):
            before: list[Message] = []
            if row["history"][0]["role"] != "system":
                others = chance.choices(openings, k=chance.randint(1, MOST_OTHER_CONVERSATIONS))
                before = [message for other in others for message in conversations[other]["messages"]]
            yield [*before, *row["history"], {"role": "assistant", "content": row["reply"]}]

    return as_dataset(mixed())
