"""Whether a model loses the thread when the topic changes."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from chatformer.chat.engines import TransformersEngine
from chatformer.evaluation.turns import OtherTopics, ask_behind_other_topics
from chatformer.reading import reads_history

from .findings import Below, Check, Finding, well
from .replies import ALWAYS_SAME
from .trial import FEW_QUESTIONS

if TYPE_CHECKING:
    import datasets

THREAD = Check(
    name="thread",
    bad=Below(hint=90, problem=50),
    good="It keeps the thread",
    title="It loses the thread",
)
"""Measures in percent how many replies stay the same after three exchanges on other topics."""

TRIED_QUESTIONS = 100

ENOUGH_OTHER_TOPICS = 0.25
"""Share of training conversations after other ones from which there are enough of them."""


def check_thread(
    model: Any,
    tokenizer: Any,
    conversations: "datasets.Dataset",
    *,
    max_source_tokens: int | None,
    other_topics_fraction: float | None,
) -> list[Finding]:
    """
    Whether replies change if something else was said before.

    `other_topics_fraction` is that of the model's training, if it is known.
    """
    if not reads_history(tokenizer):
        return well(
            "thread",
            "It reads the last question alone",
            "That is by design: its chat template leaves out earlier turns, so that nothing can distract it.",
        )
    topics = ask_behind_other_topics(
        TransformersEngine(model, tokenizer),
        tokenizer,
        conversations,
        nums_before=(0, 1, 2, 3),
        num_questions=TRIED_QUESTIONS,
        max_source_tokens=max_source_tokens,
        show_progress=True,
    )
    return thread_findings(topics, other_topics_fraction)


def thread_findings(topics: OtherTopics, other_topics_fraction: float | None) -> list[Finding]:
    """What replies after other topics show: nothing if they are few, or if all questions get the same one."""
    alone = Counter(topics.replies[0])
    if len(topics.questions) < FEW_QUESTIONS or alone.most_common(1)[0][1] > ALWAYS_SAME * len(topics.questions):
        return []
    shares = [topics.unchanged(number) for number in (1, 2, 3)]
    statement = (
        f"After one exchange on other topics {shares[0]:.0f}% of {len(topics.questions)} replies are the same as to "
        f"the question alone, after two {shares[1]:.0f}%, after three {shares[2]:.0f}%."
    )
    if other_topics_fraction is not None and other_topics_fraction >= ENOUGH_OTHER_TOPICS:
        what_to_do = f"Train again for longer, or with more than --other-topics-fraction {other_topics_fraction:g}"
    else:
        what_to_do = f"Train again with --other-topics-fraction {ENOUGH_OTHER_TOPICS:g}"
    return THREAD.findings(
        shares[2],
        statement,
        what_to_do=f"{what_to_do}, which teaches it that earlier turns need not concern the last one. Until "
        "then, begin a new conversation (/reset) for each new topic.",
        examples=(
            f"{question} → {alone}; after three exchanges → {later}"
            for question, alone, later in zip(topics.questions, topics.replies[0], topics.replies[3], strict=True)
            if alone != later
        ),
    )
