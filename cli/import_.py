"""`chatformer import`."""

from chatformer.hub.importing import main

__all__ = ["main"]
