"""What stops a run in good order: a request from outside, and a failure that only its user can repair."""

import contextlib
import math
import os
import signal
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from accelerate import Accelerator


class TrainingFailed(ValueError):
    """A run that cannot continue with these settings: the message says at which step, and what to try."""


class Interrupted(Exception):
    """A stop request came during work that can be repeated."""


class StopRequest:
    """
    While entered, turns Ctrl-C and SIGTERM into a request to stop after the step; a second Ctrl-C stops at once.

    True after a request.
    """

    def __init__(self) -> None:
        self.wanted = False
        self.interrupts = False

    def __bool__(self) -> bool:
        return self.wanted

    def __enter__(self) -> "StopRequest":
        self.previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise `Interrupted` in the middle of the `with` block as soon as a request comes."""
        self.interrupts = True
        try:
            if self.wanted:
                raise Interrupted
            yield
        finally:
            self.interrupts = False

    def agreed(self, accelerator: "Accelerator") -> bool:
        """True if any rank has a request: all ranks must stop at the same step."""
        if accelerator.num_processes > 1:
            wanted = torch.tensor(int(self.wanted), device=accelerator.device)
            self.wanted = bool(accelerator.reduce(wanted, reduction="sum").item())
        return self.wanted

    def _note(self, number: int, _frame: object) -> None:
        if self.wanted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.wanted = True
        # Written directly: the handler may run in the middle of a print.
        os.write(2, b"\nstopping after this step; the checkpoint is being saved\n")
        if self.interrupts:
            raise Interrupted


def divergence(losses: Sequence[float], best: float, vocab_size: int) -> tuple[int, str] | None:
    """
    The index of the first loss that shows a diverged training, and the reason; None if no loss does.

    Diverged: the mean is above `best`, the lowest mean of earlier losses, by half of log(vocab_size), the loss of
    guessing.
    """
    for number, loss in enumerate(losses):
        if not math.isfinite(loss):
            return number, f"The loss is {loss}"
    mean = sum(losses) / max(1, len(losses))
    if mean > best + math.log(vocab_size) / 2:
        return len(losses) - 1, f"The loss has risen to {mean:.3f}, from {best:.3f} at its best"
    return None
