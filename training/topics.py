"""Changes of subject: conversations behind others that have nothing to do with them."""

import random
from typing import TYPE_CHECKING

from .conversations import Message, exchanges

if TYPE_CHECKING:
    import datasets

MOST_OTHER_CONVERSATIONS = 4

SHARE_OF_OTHER_TOPICS = 0.25
"""Of the replies, where conversations have several turns and nothing else is asked for."""


def behind_other_topics(conversations: "datasets.Dataset", fraction: float, seed: int) -> "datasets.Dataset":
    """
    Return a share `fraction` of the conversations' replies, drawn by the seed, each behind other conversations.

    Each is a conversation that ends with the reply to be learnt, behind one to four others: so a model learns that what
    was said before need not concern the last question. What begins with a system message is left out: it speaks of the
    whole conversation.
    """
    import datasets

    chance = random.Random(seed)
    mixed: list[list[Message]] = []
    openings: list[int] = []
    if fraction:
        openings = [
            index for index, messages in enumerate(conversations["messages"]) if messages[0]["role"] != "system"
        ]
    for index in openings:
        messages = conversations[index]["messages"]
        for history, reply in exchanges(messages):
            if chance.random() < fraction:
                others = chance.choices(openings, k=chance.randint(1, MOST_OTHER_CONVERSATIONS))
                before = [message for other in others for message in conversations[other]["messages"]]
                mixed.append([*before, *history, {"role": "assistant", "content": reply}])
    return datasets.Dataset.from_dict({"messages": mixed}, conversations.features)
