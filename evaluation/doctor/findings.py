"""What a check found, how bad it is, and how it is said."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["good", "hint", "problem"]

SHOWN_EXAMPLES = 3

HINT_AND_PROBLEM = {
    "duplicates": (0.02, 0.25),
    "many answers": (0.10, 0.50),
    "frequent answers": (0.02, 0.10),
    "leaks": (0.0, 0.01),
    "leaked answers": (0.05, 0.25),
    "echoes": (0.001, 0.05),
    "broken text": (0.0, 0.005),
    "unusual text": (0.005, 0.25),
    "empty answers": (0.01, 0.20),
    "labels in text": (0.0, 0.05),
    "too long": (0.0, 0.05),
    "parameters per token": (100, 1000),
}
"""Above which share something is worth a hint, and above which it is a problem; parameters are no share."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Say what a check found. `check` is its name for programs, and `what_to_do` is empty where all is well."""

    check: str
    severity: Severity
    title: str
    found: str
    what_to_do: str = ""
    examples: tuple[str, ...] = ()


def well(check: str, title: str, found: str = "") -> list[Finding]:
    """Return that a check found nothing wrong."""
    return [Finding(check=check, severity="good", title=title, found=found)]


def severity_of(share: float, check: str) -> Severity:
    """Return how bad a share is, by the bounds of a check."""
    hint, problem = HINT_AND_PROBLEM[check]
    return "problem" if share > problem else "hint" if share > hint else "good"


def shortened(text: str, width: int = 60) -> str:
    # Signs that no terminal can show, and some that it would obey, are written out.
    line = "".join(sign if sign.isprintable() else f"<U+{ord(sign):04X}>" for sign in " ".join(text.split()))
    return line if len(line) <= width else line[: width - 1] + "…"


def shown(found: Iterable[Any]) -> tuple[str, ...]:
    return tuple(str(example) for _, example in zip(range(SHOWN_EXAMPLES), found, strict=False))


def percent(share: float) -> str:
    if 0 < share < 1e-4:
        return "under 0.01%"
    return f"{100 * share:.0f}%" if share >= 0.1 or not share else f"{100 * share:.2g}%"
