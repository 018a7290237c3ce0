"""A reply as pieces of text, as soon as its tokens are known."""

from collections.abc import Callable
from typing import Any


class Pieces:
    """Passes on the text of tokens as they are generated, never half a character."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None]):
        self.tokenizer = tokenizer
        self.on_text = on_text
        self.ids: list[int] = []
        self.text = ""
        """The text that has been passed on."""

    def add(self, token: int) -> None:
        """Take the next token, and pass on the new text if later tokens cannot change it."""
        self.ids.append(token)
        text = self.tokenizer.decode(self.ids, skip_special_tokens=True)
        # Bytes such as "<0xEA>" are decoded together: the next one may change the text of those before.
        # A model with more rows than tokens may draw a row of no token, which adds nothing to the text.
        name = self.tokenizer.convert_ids_to_tokens(token) or ""
        if not (name.startswith("<") or text.endswith("\N{REPLACEMENT CHARACTER}")):
            self.pass_on(text)

    def pass_on(self, text: str) -> None:
        """Pass on the part of `text` that is new."""
        if len(text) > len(self.text):
            self.on_text(text[len(self.text) :])
            self.text = text
