"""The progress of long work: a bar in a terminal, and a line now and then in a pipe or a log file."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

SECONDS_BETWEEN_LINES = 30
SECONDS_BETWEEN_REDRAWS = 0.5


class Bar:
    """Progress that is not shown; `write` still prints."""

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, count: int = 1) -> None:
        """Add what has been done since the last call."""

    def show(self, **figures: str) -> None:
        """Show these figures with the progress, from the next time it is shown."""

    def write(self, text: str) -> None:
        """Print a line of its own on standard error."""
        print(text, file=sys.stderr)


class TerminalBar(Bar):
    """Progress that one line of a terminal shows."""

    def __init__(self, *, total: int | None, description: str, unit: str, done: int):
        # Here, since `--help` needs no bars.
        from tqdm import tqdm

        self.bar = tqdm(
            total=total,
            initial=done,
            desc=description,
            unit=unit,
            mininterval=SECONDS_BETWEEN_REDRAWS,
            dynamic_ncols=True,
        )

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def update(self, count: int = 1) -> None:
        self.bar.update(count)

    def show(self, **figures: str) -> None:
        self.bar.set_postfix(figures, refresh=False)

    def write(self, text: str) -> None:
        self.bar.write(text, file=sys.stderr)


class Lines(Bar):
    """Progress that a line shows every half minute: a log keeps all that is written, and cannot be redrawn."""

    def __init__(self, *, total: int | None, description: str, unit: str, done: int):
        self.total, self.description, self.unit = total, description, unit
        self.begun_with = self.done = done
        self.figures = ""
        self.start = self.shown = time.monotonic()

    def update(self, count: int = 1) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.shown >= SECONDS_BETWEEN_LINES:
            self.shown = now
            self.write(self.line(now - self.start))

    def show(self, **figures: str) -> None:
        self.figures = "".join(f", {name} {value}" for name, value in figures.items())

    def line(self, seconds: float) -> str:
        """The progress after so many seconds."""
        pace = (self.done - self.begun_with) / seconds
        amount, left = f"{self.done:,} {self.unit}s", ""
        if self.total is not None:
            amount = f"{self.done:,} of {self.total:,} {self.unit}s"
            if pace:
                left = f", {(self.total - self.done) / pace / 60:.1f} minutes left"
        return f"{self.description}: {amount}, {pace:.3g} a second{left}{self.figures}"


def progress_bar(*, total: int | None, description: str, unit: str, done: int = 0, shown: bool = True) -> Bar:
    """The progress of `total` units, None if unknown; `done` of them are done already."""
    if not shown:
        return Bar()
    options: dict[str, Any] = {"total": total, "description": description, "unit": unit, "done": done}
    return TerminalBar(**options) if sys.stderr.isatty() else Lines(**options)


@contextlib.contextmanager
def datasets_bars(*, shown: bool = True) -> Iterator[None]:
    """Show the bars of datasets, but in a terminal only: they redraw themselves ten times a second."""
    import datasets

    were_hidden = datasets.are_progress_bars_disabled()
    if not (shown and sys.stderr.isatty()):
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were_hidden:
            datasets.enable_progress_bars()
