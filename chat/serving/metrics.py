"""Figures for Prometheus."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .batches import Batches

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The figures of one server."""

    def __init__(self) -> None:
        # Each app has its own, so that several can be in one process.
        self.registry = CollectorRegistry()
        options: dict[str, Any] = {"namespace": "chatformer", "registry": self.registry}
        self.requests = Counter("requests", "Answers by route and status", ["route", "status"], **options)
        self.seconds = Histogram("request_seconds", "Seconds to the complete answer", buckets=SECONDS, **options)
        self.first_text_seconds = Histogram(
            "first_text_seconds", "Seconds to the first text of a streamed reply", buckets=SECONDS, **options
        )
        self.prompt_tokens = Counter("prompt_tokens", "Tokens read", **options)
        self.completion_tokens = Counter("completion_tokens", "Tokens generated", **options)
        self.hang_ups = Counter("hang_ups", "Requests whose client left before the end", **options)
        self.batch_rows = Histogram("batch_rows", "Replies computed at once", buckets=ROWS, **options)
        self._running = Gauge("replies_running", "Replies that are computed now", **options)
        self._waiting = Gauge("replies_waiting", "Replies that wait", **options)

    def watch(self, batches: Batches) -> None:
        """Show the state of the queue whenever the figures are read."""
        self._running.set_function(lambda: batches.num_running)
        self._waiting.set_function(lambda: batches.num_waiting)

    def text(self) -> bytes:
        return generate_latest(self.registry)
