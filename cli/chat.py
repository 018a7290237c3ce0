"""`chatformer chat`."""

from chatformer.chat.terminal import main

__all__ = ["main"]
