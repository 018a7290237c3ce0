"""The model's neighbour in a saved folder, where this file is replaced by the configuration's own source."""

from chatformer.configuration.configuration_ensemble import EnsembleConfig

__all__ = ["EnsembleConfig"]
