"""What is wrong with prose: whether there is enough of it, and whether a model is validated on what it learnt."""

from chatformer.storage.explaining import counted

from .conversations import Conversations
from .findings import Above, Below, Check, Finding, percent
from .text import check_text

LITTLE_TEXT, VERY_LITTLE_TEXT = 500_000, 50_000

AMOUNT = Check(
    name="amount",
    bad=Below(hint=LITTLE_TEXT, problem=VERY_LITTLE_TEXT),
    good="Enough to begin with",
    title="There is little to learn from",
    why="A model learns so short a book by heart, and writes pieces of it. "
    f"From about {LITTLE_TEXT:,} characters on, which is a long novel, it writes sentences of its own.",
    what_to_do="Add more books of the same kind: --data takes several files.",
)

SAME_TEXT = 80
"""Characters of a continuation that is not the same by chance."""

LEAKS = Check(
    name="leaks",
    bad=Above(hint=0.0, problem=0.01),
    good="No leaks",
    title="Validation passages are in the training data",
    what_to_do="Remove them from one side. `chatformer train` holds out chapters without leaks if it gets no "
    "--validation-data.",
)


def check_prose(conversations: Conversations) -> list[Finding]:
    """Whether there is enough text, and whether it is intact."""
    count = sum(len(exchange.answer) for exchange in conversations.exchanges)
    statement = f"{counted(len(conversations), 'passage')}, with {counted(count, 'character')} of continuations."
    return AMOUNT.findings(count, statement) + check_text(conversations)


def check_prose_leaks(training: Conversations, validation: Conversations) -> list[Finding]:
    """Whether passages that a model is validated on are also those that it learnt."""
    learnt = {exchange.reply for exchange in training.exchanges if len(exchange.reply) >= SAME_TEXT}
    found = [exchange for exchange in validation.exchanges if exchange.reply in learnt]
    count = len(validation.exchanges)
    return LEAKS.findings(
        len(found) / count,
        f"{len(found):,} of {count:,} ({percent(len(found) / count)}) are, word for word.",
        found_if_good=f"None of {count:,} validation passages is in the training data.",
        examples=found,
    )
