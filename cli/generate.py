"""`chatformer generate`."""

from chatformer.chat.generation import main

__all__ = ["main"]
