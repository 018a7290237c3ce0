"""`chatformer space`."""

from chatformer.hub.spaces import main

__all__ = ["main"]
