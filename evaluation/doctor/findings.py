"""What a check is, what it found, how bad it is, and how it is said."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

Severity = Literal["good", "hint", "problem"]

NUM_EXAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check found. `check` is its name for programs; `what_to_do` is empty if nothing is wrong."""

    check: str
    severity: Severity
    title: str
    found: str
    what_to_do: str = ""
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Above:
    """Bounds of what should be low: above `hint` it is worth a hint, above `problem` it is a problem, as is NaN."""

    hint: float = math.inf
    problem: float = math.inf

    def severity(self, value: float) -> Severity:
        return "problem" if not value <= self.problem else "hint" if value > self.hint else "good"


@dataclass(frozen=True, kw_only=True)
class Below:
    """Bounds of what should be high: below `hint` it is worth a hint, below `problem` it is a problem, as is NaN."""

    hint: float = -math.inf
    problem: float = -math.inf

    def severity(self, value: float) -> Severity:
        return "problem" if not value >= self.problem else "hint" if value < self.hint else "good"


@dataclass(frozen=True, kw_only=True)
class Check:
    """What a check says of the value that it measures, which may be a yes or a no."""

    name: str
    bad: Above | Below
    good: str = ""
    """Title of the finding if nothing is wrong; empty if the check then says nothing."""
    title: str
    """Title of a hint and a problem."""
    problem: str = ""
    """Title of a problem, if it has another one than a hint."""
    why: str = ""
    """Why it matters, after what was found."""
    what_to_do: str = ""

    def findings(
        self,
        value: float,
        found: str = "",
        *,
        found_if_good: str | None = None,
        what_to_do: str = "",
        examples: Iterable[Any] = (),
    ) -> list[Finding]:
        """What was found, or `found_if_good` if something else is to be said then; the first few examples are shown."""
        severity = self.bad.severity(value)
        if severity == "good":
            return well(self.name, self.good, found if found_if_good is None else found_if_good) if self.good else []
        title = self.problem if self.problem and severity == "problem" else self.title
        return [
            Finding(
                check=self.name,
                severity=severity,
                title=title,
                found=" ".join(filter(None, (found, self.why))),
                what_to_do=what_to_do or self.what_to_do,
                examples=tuple(map(str, islice(examples, NUM_EXAMPLES))),
            )
        ]


def well(check: str, title: str, found: str = "") -> list[Finding]:
    """The finding that nothing is wrong."""
    return [Finding(check=check, severity="good", title=title, found=found)]


def percent(share: float) -> str:
    if 0 < share < 1e-4:
        return "under 0.01%"
    return f"{100 * share:.0f}%" if share >= 0.1 or not share else f"{100 * share:.2g}%"
