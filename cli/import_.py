"""`chatformer import`."""

from chatformer.hub.formats.importing import main

__all__ = ["main"]
