"""A reply as pieces of text, as soon as its tokens are known."""

from collections.abc import Callable
from typing import Any

LONGEST_WINDOW = 64
"""Tokens that are decoded together: the time for all of a long reply, with each new one, would grow as its square."""


class Pieces:
    """Passes on the text of tokens as they are generated, never half a character."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None]):
        self.tokenizer = tokenizer
        self.on_text = on_text
        self.num_letters = 0
        """Of the text that has been passed on."""
        self._window: list[int] = []
        # Letters of the window's text that have been passed on.
        self._num_known = 0

    def add(self, token: int) -> None:
        """Take the next token, and pass on the new text if later tokens cannot change it."""
        self._window.append(token)
        text = self._decoded(self._window)
        # Bytes such as "<0xEA>" are decoded together: the next one may change the text of those before.
        # A model with more rows than tokens may draw a row of no token, which adds nothing to the text.
        name = self.tokenizer.convert_ids_to_tokens(token) or ""
        if name.startswith("<") or text.endswith("\N{REPLACEMENT CHARACTER}"):
            return
        self._pass_on(text[self._num_known :])
        self._num_known = len(text)
        # The first token of a window loses a space before it, so it must have been passed on, and be more than that.
        if len(self._window) > LONGEST_WINDOW and (alone := self._decoded([token])):
            self._window, self._num_known = [token], len(alone)

    def end(self, text: str) -> None:
        """Pass on what is new in `text`, which is the complete one."""
        self._pass_on(text[self.num_letters :])

    def _decoded(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def _pass_on(self, text: str) -> None:
        if text:
            self.num_letters += len(text)
            self.on_text(text)
