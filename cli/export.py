"""`chatformer export`."""

from chatformer.hub.formats.exporting import main

__all__ = ["main"]
