"""A request's replies, as text that grows with the tokens."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from chatformer.chat.streaming import Pieces
from chatformer.configuration.replies import ReplySettings

from .batches import Batches, Row
from .protocol import FinishReason


class GrowingReply:
    """The text of one row: what its tokens have become so far, up to the first text that stops it."""

    def __init__(self, row: Row, tokenizer: Any, stop: Sequence[str]):
        self.row = row
        self.tokenizer = tokenizer
        self.stop = stop
        self.num_tokens = 0
        """The tokens that have become text."""
        self.is_stopped = False
        self.is_done = False
        self._new: list[str] = []
        self._pieces = Pieces(tokenizer, self._new.append)
        # Text that may be the beginning of a stop.
        self._held = ""

    @property
    def finish_reason(self) -> FinishReason:
        ended = self.is_stopped or not self.row.tokens or self.row.tokens[-1] == self.row.end_token
        return "stop" if ended else "length"

    def new_text(self) -> str:
        """The text that came since the last call, without what may yet become a stop."""
        if self.is_done:
            return ""
        # A row that is done now gets no more tokens.
        is_last = self.row.is_done
        text = ""
        for token in self.row.tokens[self.num_tokens :]:
            self.num_tokens += 1
            self._pieces.add(token)
            text += self._released()
            if self.is_stopped:
                self.is_done = True
                return text
        if is_last:
            self.is_done = True
            self._pieces.end(self.tokenizer.decode(self.row.tokens, skip_special_tokens=True))
            text += self._released()
            if not self.is_stopped:
                text += self._held
        return text

    def all_text(self) -> str:
        """The text of a row that is done and whose tokens were not asked for one by one."""
        self.is_done, self.num_tokens = True, len(self.row.tokens)
        return self.tokenizer.decode(self.row.tokens, skip_special_tokens=True)

    def _released(self) -> str:
        """Take the new pieces, and return what is surely text of the reply."""
        text = self._held + "".join(self._new)
        self._new.clear()
        found = [index for stop in self.stop if (index := text.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            return text[: min(found)]
        num_held = max((overlap(text, stop) for stop in self.stop), default=0)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]


def overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that is a beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)


class Completion:
    """The replies that one request asks for, computed in batches."""

    def __init__(
        self,
        batches: Batches,
        tokenizer: Any,
        source: list[int],
        settings: ReplySettings,
        *,
        num_replies: int = 1,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        seed: int | None = None,
        is_streamed: bool = False,
    ):
        self.batches = batches
        self.source = source
        loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        # Requests with seeds of their own are computed alone, or their neighbours would decide what is drawn.
        group = None if seed is None else object()
        self.rows = [
            Row(
                source,
                settings,
                max_new_tokens=max_new_tokens,
                end_token=tokenizer.eos_token_id,
                on_change=lambda: loop.call_soon_threadsafe(self._changed.set),
                wants_every_token=is_streamed or bool(stop),
                # Should the replies not fit one batch, those of the next are others.
                seed=None if seed is None else (seed + index) % 2**32,
                group=group,
            )
            for index in range(num_replies)
        ]
        self.replies = [GrowingReply(row, tokenizer, stop) for row in self.rows]

    @property
    def is_done(self) -> bool:
        """True if each reply is finished, or has failed."""
        return all(reply.is_done or reply.row.error is not None for reply in self.replies)

    @property
    def num_tokens(self) -> int:
        return sum(reply.num_tokens for reply in self.replies)

    def submit(self) -> None:
        """Queue the request; raise `QueueFull` if there is no room."""
        self.batches.submit(self.rows)

    def cancel(self) -> None:
        """Free the places of the replies that are not finished."""
        self.batches.cancel(self.rows)

    async def finished(self) -> list[str]:
        """The text of each reply, once all are finished."""
        texts = [""] * len(self.replies)
        if not self.rows[0].wants_every_token:
            while not all(row.is_done for row in self.rows):
                await self._next_change()
            self._raise_errors()
            return [reply.all_text() for reply in self.replies]
        async for index, text in self.pieces():
            texts[index] += text
        return texts

    async def pieces(self) -> AsyncIterator[tuple[int, str]]:
        """Each piece of text with its reply's number; an empty piece when a reply has ended."""
        while not all(reply.is_done for reply in self.replies):
            await self._next_change()
            self._raise_errors()
            for index, reply in enumerate(self.replies):
                if not reply.is_done:
                    if text := reply.new_text():
                        yield index, text
                    if reply.is_stopped:
                        self.batches.cancel([reply.row])
                    if reply.is_done:
                        yield index, ""

    async def _next_change(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    def _raise_errors(self) -> None:
        error = next((row.error for row in self.rows if row.error is not None), None)
        if error is not None:
            raise error
