"""Limits that the other formats share, and that a Chatformer does not have."""

from typing import Any

import torch

from chatformer.hub.errors import HubError

MIN_POSITIONS = 1024


def num_positions(config: Any) -> int:
    """The length of a table of positions, which in other formats cannot grow."""
    return max(config.max_position_embeddings, MIN_POSITIONS)


def check_has_layers(config: Any, name: str, format: str) -> None:
    """Raise a `HubError` unless the model is a Transformer with full attention, as all other formats have it."""
    if config.model_type == "ensemble":
        raise HubError(
            f"{name} is an ensemble of {config.num_members} Transformers, which --to {format} cannot express: export "
            "one of its members, or use the ensemble with transformers itself."
        )
    if config.model_type != "chatformer":
        kind = "Bahdanau's attention" if config.attention else "no attention"
        raise HubError(
            f"{name} is a recurrent model with {kind} (model_type {config.model_type!r}), which --to {format} cannot "
            "express: give a Transformer, or use the model with transformers itself."
        )
    if config.self_attention != "full":
        raise HubError(
            f"{name} has sparse self-attention (self_attention {config.self_attention!r}), which --to {format} cannot "
            "express: give a model with full self-attention, or use this one with transformers itself."
        )


def all_equal(first: torch.Tensor, *others: torch.Tensor) -> bool:
    """True if the matrices have equal numbers, whether they are one tensor or copies."""
    return all(torch.equal(first, other) for other in others)


def check_one_embedding(model: Any, name: str) -> None:
    """Raise a `HubError` unless source, target and output share one matrix of embeddings."""
    parts = model.model
    if not all_equal(parts.encoder.embedding.weight, parts.decoder.embedding.weight, model.lm_head.weight):
        raise HubError(
            f"{name} has tie_word_embeddings=False and several matrices of embeddings; an export needs one for source, "
            "target and output."
        )
