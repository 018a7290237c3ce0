"""`chatformer push`."""

from chatformer.hub.pushing import main

__all__ = ["main"]
