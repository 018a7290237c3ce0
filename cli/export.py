"""`chatformer export`."""

from chatformer.hub.exporting import main

__all__ = ["main"]
