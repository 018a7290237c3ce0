"""What stops a run in good order: a request from outside, and a loss that no longer means anything."""

import contextlib
import math
import os
import signal
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from accelerate import Accelerator


class Interrupted(Exception):
    """A stop was asked for in the middle of something that can be done again."""


class StopRequest:
    """
    While entered, turns Ctrl-C and SIGTERM into a request to stop after the step; a second Ctrl-C stops at once.

    True once a stop is wanted.
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
        """Raise `Interrupted` in the middle of what is done here as soon as a stop is asked for."""
        self.interrupts = True
        try:
            if self.wanted:
                raise Interrupted
            yield
        finally:
            self.interrupts = False

    def agreed(self, accelerator: "Accelerator") -> bool:
        """Return whether any process was asked to stop: all of them must then stop at the same step."""
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


def what_is_wrong(losses: Sequence[float], best: float, vocab_size: int) -> tuple[int, str] | None:
    """
    Return the first of some steps' losses that shows a training gone astray, and why, or None.

    `best` is the lowest mean of earlier losses. A loss has diverged when it has lost half of what can be learnt at
    all: when it is above `best` by half of the loss of guessing, log(vocab_size).
    """
    for number, loss in enumerate(losses):
        if not math.isfinite(loss):
            return number, f"The loss is {loss}"
    mean = sum(losses) / max(1, len(losses))
    if mean > best + math.log(vocab_size) / 2:
        return len(losses) - 1, f"The loss has risen to {mean:.3f}, from {best:.3f} at its best"
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that there is no memory left, on a GPU or for the CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
