"""`chatformer generate`."""

from chatformer.chat.lines import main

__all__ = ["main"]
