"""What the scores and the replies of a model show: whether it listens, remembers, and says more than one thing."""

import math
from collections import Counter
from collections.abc import Sequence

from chatformer.evaluation.shortening import shortened
from chatformer.storage.explaining import counted

from .causes import Cause, with_causes
from .findings import NUM_EXAMPLES, Above, Below, Check, Finding, percent
from .run_log import HARDLY_LISTENS, LISTENS, saved_by, share_of_bits
from .trial import Trial

KNOWLEDGE = Check(
    name="knowledge",
    bad=Above(problem=0.95),
    good="It has learnt something",
    title="It is no better than guessing",
    what_to_do="Check that the folder holds the trained weights and their own tokenizer, and that the data is like "
    "that of its training; otherwise train it.",
)
"""Measures the loss as a share of the loss of guessing."""


def check_knowledge(trial: Trial, vocab_size: int) -> list[Finding]:
    """Whether the model predicts better than guessing among all tokens."""
    loss, guessing = trial.evaluation.loss, math.log(vocab_size)
    return KNOWLEDGE.findings(
        loss / guessing,
        f"Its loss, {loss:.3f} nats per token, is that of guessing among all {vocab_size:,} tokens ({guessing:.3f}).",
        found_if_good=f"Loss {loss:.3f} nats per token; guessing among all {vocab_size:,} tokens has {guessing:.3f}.",
    )


LISTENING = Check(
    name="listening",
    bad=Below(hint=LISTENS, problem=HARDLY_LISTENS),
    good="It listens",
    title="It hardly listens",
    problem="It does not listen",
    what_to_do="Train longer, and check that the answers in the data follow from their questions.",
)


def check_listening(source_gain: float, bits_per_character: float, causes: Sequence[Cause]) -> list[Finding]:
    """Whether the loss depends on the source; the `causes` are probable if it does not."""
    share = share_of_bits(source_gain, bits_per_character)
    return with_causes(LISTENING, share, saved_by("question", source_gain, bits_per_character), causes)


REMEMBERING = Check(
    name="remembering",
    bad=Below(hint=HARDLY_LISTENS),
    good="It remembers",
    title="It does not use earlier turns",
    what_to_do="Train longer, on conversations whose later replies depend on earlier turns; check that "
    "--max-source-tokens leaves room for them.",
)


def check_remembering(trial: Trial) -> list[Finding]:
    """Whether the model reads the turns before the last one, if there are any."""
    gain = trial.evaluation.history_gain
    if gain is None:
        return []
    statement = f"The turns before the last one save {gain:.3f} bits per character of the later replies."
    return REMEMBERING.findings(share_of_bits(gain, trial.evaluation.bits_per_character), statement)


ALWAYS_SAME, OFTEN_SAME = 0.5, 0.1
"""Shares of the most frequent reply to different questions above which it is always, or often, the same."""

SAME_REPLY = Check(
    name="same reply",
    bad=Above(hint=OFTEN_SAME, problem=ALWAYS_SAME),
    good="Replies differ",
    title="It often says the same",
    problem="Every input gets the same answer",
    what_to_do="Train longer; in the chat, --temperature 0.7 varies what is said, but does not make it fit better.",
)


def check_replies(trial: Trial, causes: Sequence[Cause]) -> list[Finding]:
    """Whether a bot always says the same; the `causes` are probable if it does."""
    replies = trial.outcome.replies
    counts = Counter(replies)
    (reply, count), *_ = counts.most_common(1)
    share = count / len(replies)
    statement = (
        f"{len(replies):,} different questions got {len(counts):,} different replies; the most frequent one, "
        f"{shortened(reply)!r}, {counted(count, 'time')} ({percent(share)})."
    )
    examples = (f"{times:,} times: {shortened(text)}" for text, times in counts.most_common(NUM_EXAMPLES))
    # Every reply is a large share of two or three.
    return with_causes(SAME_REPLY, share if count > 2 else 0, statement, causes, examples)


COPIES = Check(
    name="copies",
    bad=Above(hint=90),
    good="It makes replies of its own",
    title="It only repeats what it learnt",
    why="It picks an answer rather than making one.",
    what_to_do="That may be all you want. If not: more and more varied data, more --dropout, up to 0.3, and the "
    "checkpoint with the best loss instead of the last.",
)


def check_copies(trial: Trial) -> list[Finding]:
    """Whether a bot only repeats answers of its training, if the trial knows them."""
    copied = trial.evaluation.copied_replies
    if copied is None:
        return []
    return COPIES.findings(copied, f"{copied:.0f}% of the replies equal an answer of the training word for word.")


MEMORY = Check(
    name="memory",
    bad=Above(hint=0),
    good="It has not just learnt by heart",
    title="It has learnt its training by heart",
    why="It overfits: on new questions it is sure of wrong words.",
    what_to_do="More data helps most. Then more --dropout, up to 0.3, --rdrop-alpha 1 or a smaller --size; fewer "
    "epochs only if the validation loss rises at the end. Look at the replies, too: those of small chatbots still "
    "improve after it has begun to.",
)

OVERFITTING_NATS, OVERFITTING_TIMES = 1, 1.5
"""From this difference and this ratio of the losses on new and on known exchanges, a model overfits."""


def check_memory(new: float, known: float, check: Check = MEMORY) -> list[Finding]:
    """Whether the loss on new exchanges is that of a model that has learnt its training by heart."""
    overfits = new - known >= OVERFITTING_NATS and new >= OVERFITTING_TIMES * known
    return check.findings(overfits, f"Loss {known:.3f} on exchanges of its training, {new:.3f} on others.")
