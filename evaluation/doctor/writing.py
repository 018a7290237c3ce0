"""What is wrong with what a model of prose writes: whether it reads its prompt, circles, copies."""

from collections.abc import Sequence

from chatformer.evaluation.prose import compare_prose

from .findings import Above, Below, Check, Finding
from .run_log import HARDLY_LISTENS, saved_by, share_of_bits
from .trial import Trial

LISTENING = Check(
    name="listening",
    bad=Below(hint=HARDLY_LISTENS),
    good="It reads the prompt",
    title="It hardly reads the prompt",
    what_to_do="Train longer: a model first learns to write, and then to go on from what was written before.",
)

LOOPS = Check(
    name="loops",
    bad=Above(hint=5),
    good="It does not go round in circles",
    title="It goes round in circles",
    what_to_do="Draw more daringly, with a higher --temperature or --top-p, and train longer.",
)
"""Measures the share of repeated runs of words, in percent, above that of real text."""

COPIES = Check(
    name="copies",
    bad=Above(hint=10),
    good="It writes sentences of its own",
    title="It writes what it has read",
    what_to_do="Add more text, and take fewer steps or more --dropout, up to 0.3.",
)
"""Measures the share of copied runs of words, in percent, above that of real text."""

MEMORY = Check(
    name="memory",
    bad=Above(hint=0),
    good="It has not just learnt by heart",
    title="It has learnt its book by heart",
    why="It overfits: in other chapters it is sure of wrong words.",
    what_to_do="More text helps most. Then fewer steps, more --dropout, up to 0.3, or a smaller --size.",
)


def check_writing(trial: Trial, training: Sequence[tuple[str, str]] | None) -> list[Finding]:
    """Whether what a model writes goes on from its prompt, in circles, or in the words of its training."""
    figures = trial.evaluation
    saved = figures.source_gain, figures.bits_per_character
    findings = LISTENING.findings(share_of_bits(*saved), saved_by("prompt", *saved))
    compared = compare_prose(trial.exchanges, trial.outcome, training)
    for check, name, words in (
        (LOOPS, "repeated_4_grams", "four words in a row stand in their text before"),
        (COPIES, "copied_8_grams", "eight words in a row stand in the training text"),
    ):
        written, real = getattr(compared.model, name), getattr(compared.real, name)
        if written is not None and real is not None:
            findings += check.findings(
                written - real, f"{written:.1f}% of its runs of {words}, {real:.1f}% of those of real text."
            )
    return findings
