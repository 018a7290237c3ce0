"""
Replies in batches: requests that wait with the same search are computed together.

There are no timers. A free worker takes the oldest request and those that wait with the same search; what comes while
it computes is the next batch. So a lone request waits for nothing, and batches grow with the load.
"""

import dataclasses
import logging
import math
import secrets
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

from chatformer.configuration.replies import ReplySettings

if TYPE_CHECKING:
    from chatformer.chat.engines import Engine

logger = logging.getLogger(__name__)


class QueueFull(Exception):
    """As many replies wait as may."""


class Row:
    """One reply to compute. A worker's thread writes its fields, the event loop reads them."""

    def __init__(
        self,
        source: list[int],
        settings: ReplySettings,
        *,
        max_new_tokens: int,
        end_token: int | None,
        on_change: Callable[[], object],
        wants_every_token: bool = False,
        seed: int | None = None,
        group: Hashable = None,
    ):
        self.source = source
        self.settings = settings
        self.max_new_tokens = max_new_tokens
        self.end_token = end_token
        self.on_change = on_change
        """Called, in a worker's thread, when the row is done, and for each token if every token is wanted."""
        self.wants_every_token = wants_every_token
        self.seed = seed
        # Rows of one batch can differ in their longest reply, but not under beams, which end all together.
        alike = settings if settings.num_beams > 1 else dataclasses.replace(settings, max_new_tokens=None)
        self.group = (alike, group)
        """Rows of equal groups can be computed together."""
        self.tokens: list[int] = []
        self.is_done = False
        self.is_cancelled = False
        self.error: Exception | None = None

    def add(self, token: int) -> bool:
        """Take the next token; True if the reply ends with it."""
        if self.is_cancelled:
            return True
        self.tokens.append(token)
        is_last = token == self.end_token or len(self.tokens) >= self.max_new_tokens
        if is_last:
            self.finish()
        elif self.wants_every_token:
            self.on_change()
        return is_last

    def finish(self, error: Exception | None = None) -> None:
        if not self.is_done:
            self.error = error
            self.is_done = True
            self.on_change()


class Batches:
    """A bounded queue of rows, and the threads in which an engine computes them."""

    def __init__(
        self,
        engine: "Engine",
        *,
        max_batch_size: int,
        max_waiting: int,
        on_batch: Callable[[int], object] = lambda num_rows: None,
    ):
        self.engine = engine
        self.max_batch_size = max_batch_size
        self.max_waiting = max_waiting
        self.on_batch = on_batch
        self.num_running = 0
        self._waiting: deque[Row] = deque()
        self._changed = threading.Condition()
        self._num_idle = 0
        self._is_closed = False
        self._workers = [
            threading.Thread(target=self._work, name=f"replies-{number}", daemon=True)
            for number in range(engine.num_parallel)
        ]
        for worker in self._workers:
            worker.start()

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def submit(self, rows: Sequence[Row]) -> None:
        """Queue all rows of a request; raise `QueueFull` if they find no room."""
        with self._changed:
            # A request of more rows than the queue has places is taken by an empty one.
            if self._is_closed or (self._waiting and len(self._waiting) + len(rows) > self.max_waiting):
                raise QueueFull
            self._waiting.extend(rows)
            self._changed.notify()

    def cancel(self, rows: Sequence[Row]) -> None:
        """Free the places of rows: at once if they wait, with the next token if they are computed."""
        with self._changed:
            for row in rows:
                row.is_cancelled = True
            if any(row.is_cancelled for row in self._waiting):
                self._waiting = deque(row for row in self._waiting if not row.is_cancelled)

    def close(self) -> None:
        """Cancel all rows and wait for the workers to end."""
        with self._changed:
            self._is_closed = True
            self._waiting.clear()
            self._changed.notify_all()
        for worker in self._workers:
            worker.join(timeout=10)

    def _work(self) -> None:
        while rows := self._next_batch():
            self.on_batch(len(rows))
            try:
                self._compute(rows)
            finally:
                with self._changed:
                    self.num_running -= len(rows)

    def _next_batch(self) -> list[Row]:
        """The rows to compute next; none once the queue is closed."""
        with self._changed:
            self._num_idle += 1
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            if self._is_closed:
                return []
            alike = [row for row in self._waiting if row.group == self._waiting[0].group]
            # Idle workers share what waits.
            rows = alike[: min(self.max_batch_size, math.ceil(len(alike) / self._num_idle))]
            taken = set(rows)
            self._waiting = deque(row for row in self._waiting if row not in taken)
            self._num_idle -= 1
            self.num_running += len(rows)
            if self._waiting:
                self._changed.notify()
            return rows

    def _compute(self, rows: Sequence[Row]) -> None:
        """Compute the rows' replies; an error is that of the rows that cause it alone."""
        first = rows[0]
        settings = dataclasses.replace(first.settings, max_new_tokens=max(row.max_new_tokens for row in rows))
        try:
            if first.seed is not None:
                self.engine.set_seed(first.seed)
            replies = self.engine.generate(
                [row.source for row in rows], settings.search(), lambda index, token: self._add(rows[index], token)
            )
            for row, reply in zip(rows, replies, strict=True):
                if not row.tokens:
                    # Beams know their ids only now.
                    row.tokens.extend(reply)
                row.finish()
        except Exception as error:
            unanswered = [row for row in rows if not row.tokens and not row.is_done]
            if len(rows) > 1 and unanswered:
                for row in unanswered:
                    self._compute([row])
            else:
                logger.exception("A reply could not be computed")
            for row in rows:
                row.finish(error)
        finally:
            if first.seed is not None:
                # One client's seed must not decide what others get.
                self.engine.set_seed(secrets.randbits(32))

    def _add(self, row: Row, token: int) -> bool:
        return self._is_closed or row.add(token)
