"""
Chatformer and MarianMT: one network, written in two ways.

Marian has other names, and its positions have all sines before all cosines where the paper's alternate; so every axis
of the residual stream is in another order. Nothing is computed anew: a model goes there and back unchanged.
"""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, MarianConfig, MarianMTModel
from transformers.utils import cached_file

from chatformer import ChatformerConfig, ChatformerForConditionalGeneration
from chatformer.embedding import sinusoids
from chatformer.hub.errors import HubError
from chatformer.hub.loading import all_equal, load_config, load_weights, num_positions

from .parity import Reply, torch_reply

FIELDS = {
    "vocab_size": "vocab_size",
    "decoder_vocab_size": "vocab_size",
    "d_model": "d_model",
    "encoder_ffn_dim": "d_ff",
    "decoder_ffn_dim": "d_ff",
    "encoder_attention_heads": "num_heads",
    "decoder_attention_heads": "num_heads",
    "encoder_layers": "encoder_layers",
    "decoder_layers": "decoder_layers",
    "activation_function": "activation",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "max_position_embeddings": "max_position_embeddings",
    "pad_token_id": "pad_token_id",
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "decoder_start_token_id": "decoder_start_token_id",
}
"""Marian's fields and ours. Where two of Marian's are one of ours, they must be equal."""

REQUIRED = {
    "normalize_before": (False, "the norm stands after each sub-layer"),
    "normalize_embedding": (False, "embeddings are not normalised"),
    "add_final_layer_norm": (False, "no norm follows the last layer"),
    "static_position_embeddings": (True, "positions are sinusoids"),
}
"""Switches of Marian's wider family: the value that ours has, and what it means."""

MODULES = {
    ".embedding.": ".embed_tokens.",
    ".feed_forward.inner.": ".fc1.",
    ".feed_forward.output.": ".fc2.",
    ".feed_forward_norm.": ".final_layer_norm.",
    ".self_attention_norm.": ".self_attn_layer_norm.",
    ".cross_attention_norm.": ".encoder_attn_layer_norm.",
    ".attention_norm.": ".self_attn_layer_norm.",
    ".self_attention.": ".self_attn.",
    ".cross_attention.": ".encoder_attn.",
    ".attention.": ".self_attn.",
    ".query.": ".q_proj.",
    ".key.": ".k_proj.",
    ".value.": ".v_proj.",
    ".output.": ".out_proj.",
    "lm_head.bias": "final_logits_bias",
}
"""Parts of our weights' names and Marian's, replaced in this order."""

READS_STREAM = ("shared", "embedding", "query", "key", "value", "inner", "lm_head")
"""Modules whose weight has the residual stream as its second axis; the others write it, along their first."""

LAYER_NORM_EPS = 1e-5
"""Marian's layer normalisation knows no other."""

TOKENIZER_FILES = (
    "source.spm",
    "target.spm",
    "vocab.json",
    "target_vocab.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
    "chat_template.jinja",
)


def marian_name(name: str) -> str:
    """Return what Marian calls one of our weights."""
    for ours, theirs in MODULES.items():
        name = name.replace(ours, theirs)
    return name


def reordered(name: str, tensor: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Return a weight, by our name, with its axis of the residual stream in another order."""
    *_, module, kind = name.split(".")
    if module not in READS_STREAM:
        return tensor[order]
    return tensor[:, order] if kind == "weight" else tensor


def alternating_order(d_model: int) -> torch.Tensor:
    """Return where our elements stand in Marian's halves."""
    return torch.arange(d_model).view(2, -1).T.flatten()


def halved_order(d_model: int) -> torch.Tensor:
    """Return where the elements of Marian's halves stand in ours."""
    return torch.arange(d_model).view(-1, 2).T.flatten()


def chatformer_config(marian: Mapping[str, Any], *, output_bias: bool) -> ChatformerConfig:
    """Return our configuration for Marian's fields; raise a `HubError` that names the field that cannot be ours."""
    for key, (required, meaning) in REQUIRED.items():
        if marian.get(key, required) != required:
            raise HubError(f"{key} must be {required} ({meaning}), but it is {marian[key]!r}.")
    ours: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for theirs, name in FIELDS.items():
        if name in ours and ours[name] != marian[theirs]:
            raise HubError(
                f"{theirs} ({marian[theirs]!r}) must equal {origin[name]} ({ours[name]!r}): in a Chatformer both are "
                f"{name}."
            )
        ours[name], origin[name] = marian[theirs], theirs
    try:
        return ChatformerConfig(**ours, output_bias=output_bias)
    except ValueError as error:
        raise HubError(f"This checkpoint cannot be a Chatformer: {error}") from error


def marian_config(config: ChatformerConfig) -> MarianConfig:
    """Return Marian's configuration for ours."""
    if config.layer_norm_eps != LAYER_NORM_EPS:
        raise HubError(
            f"layer_norm_eps must be {LAYER_NORM_EPS}, which Marian's layer normalisation has always, but it is "
            f"{config.layer_norm_eps}."
        )
    fields = {theirs: getattr(config, ours) for theirs, ours in FIELDS.items()}
    fields["max_position_embeddings"] = num_positions(config)
    return MarianConfig(**fields, scale_embedding=True, forced_eos_token_id=None)


def load_marian(checkpoint: str, revision: str | None) -> MarianMTModel:
    """Return a MarianMT model in float32, `dtype` of its configuration as stored; refuse what ours cannot be."""
    config = load_config(checkpoint, revision)
    if config.model_type != "marian":
        raise HubError(f"{checkpoint} must be a MarianMT checkpoint, but its config.json says {config.model_type!r}.")
    chatformer_config(config.to_dict(), output_bias=False)
    tables = [f"model.{stack}.embed_positions.weight" for stack in ("encoder", "decoder")]
    marian = load_weights(MarianMTModel, checkpoint, revision, dtype="auto", may_lack=["final_logits_bias", *tables])
    stored_dtype = marian.dtype
    marian.float()
    marian.config.dtype = stored_dtype
    encoder, decoder = marian.model.encoder, marian.model.decoder
    if not all_equal(encoder.embed_tokens.weight, decoder.embed_tokens.weight, marian.lm_head.weight):
        raise HubError(
            "share_encoder_decoder_embeddings and tie_word_embeddings must be True, but they are "
            f"{config.share_encoder_decoder_embeddings} and {config.tie_word_embeddings}, and the matrices differ: a "
            "Chatformer has one matrix of embeddings for source, target and output."
        )
    expected = sinusoids(config.max_position_embeddings, config.d_model)[:, halved_order(config.d_model)]
    for name, stack in zip(tables, (encoder, decoder), strict=True):
        table = stack.embed_positions.weight.data
        # As near as sixteen bits store a sine.
        if not torch.allclose(table, expected.float(), rtol=0, atol=1e-2):
            raise HubError(f"{name} must be the table of sinusoids, but it holds other numbers: they were learnt.")
        table.copy_(expected)
    return marian


def from_marian(marian: MarianMTModel) -> ChatformerForConditionalGeneration:
    """Return the Chatformer model, in float32, that a MarianMT model is."""
    config = chatformer_config(marian.config.to_dict(), output_bias=bool(marian.final_logits_bias.any()))
    model = ChatformerForConditionalGeneration(config)
    theirs, order = marian.state_dict(), alternating_order(config.d_model)
    theirs["model.shared.weight"] = theirs["model.encoder.embed_tokens.weight"]
    weights = {
        name: reordered(name, theirs[marian_name(name)].reshape(tensor.shape), order)
        for name, tensor in model.state_dict().items()
    }
    if not marian.config.scale_embedding:
        scale_embedding(weights, config)
    model.load_state_dict(weights)
    model.generation_config = GenerationConfig.from_dict(marian.generation_config.to_dict())
    return model.eval()


def scale_embedding(weights: dict[str, torch.Tensor], config: ChatformerConfig) -> None:
    """
    Make weights that were used without the factor sqrt(d_model) of Section 3.4 equal with it.

    The matrix is divided by it, and the last norm, before the output that shares the matrix, multiplied.
    """
    factor = math.sqrt(config.d_model)
    last_norm = f"model.decoder.layers.{config.decoder_layers - 1}.feed_forward_norm."
    for name in weights:
        if name.startswith(last_norm):
            weights[name] = weights[name] * factor
        elif name.endswith((".embedding.weight", ".shared.weight", "lm_head.weight")):
            weights[name] = weights[name] / factor


def to_marian(model: ChatformerForConditionalGeneration) -> MarianMTModel:
    """Return the MarianMT model that a Chatformer model is."""
    marian = MarianMTModel(marian_config(model.config))
    order = halved_order(model.config.d_model)
    weights = marian.state_dict()
    for name, tensor in model.state_dict().items():
        weights[marian_name(name)] = reordered(name, tensor, order).reshape(weights[marian_name(name)].shape)
    marian.load_state_dict(weights)
    marian.generation_config = GenerationConfig.from_dict(model.generation_config.to_dict())
    return marian.eval()


def write_marian(model: ChatformerForConditionalGeneration, folder: Path) -> None:
    """Write a Chatformer model as a checkpoint that transformers' own MarianMTModel loads."""
    to_marian(model).save_pretrained(folder)


def marian_replies(folder: Path, sources: Sequence[Sequence[int]]) -> list[Reply]:
    """Return the greedy replies of a written checkpoint."""
    marian = load_weights(MarianMTModel, str(folder), None, dtype=torch.float32)
    return [torch_reply(marian, source) for source in sources]


def copy_tokenizer(checkpoint: str, revision: str | None, folder: Path) -> bool:
    """Copy the tokenizer's files, made so that AutoTokenizer finds their class; return whether there are any."""
    found = set()
    for name in TOKENIZER_FILES:
        path = cached_file(
            checkpoint,
            name,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if path is not None:
            found.add(name)
            shutil.copyfile(path, folder / name)
    if "source.spm" in found:
        # Old checkpoints leave it to their model's type, which is another now.
        config_file = folder / "tokenizer_config.json"
        settings = json.loads(config_file.read_text("utf-8")) if config_file.is_file() else {}
        text = json.dumps({"tokenizer_class": "MarianTokenizer", **settings}, indent=2, ensure_ascii=False)
        config_file.write_text(text + "\n", "utf-8")
    return bool(found)
