"""
Chatformer and MarianMT: one network, written in two ways.

Marian has other names, and its positions have all sines before all cosines, which alternate in the paper; so every axis
of the residual stream has another order. No number changes: a model that is converted there and back is the same.
"""

import json
import math
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import HFValidationError, validate_repo_id
from transformers import AutoConfig, GenerationConfig, MarianConfig, MarianMTModel
from transformers.utils import cached_file

from chatformer import ChatformerConfig, ChatformerForConditionalGeneration
from chatformer.embedding import sinusoids
from chatformer.hub.errors import HubError
from chatformer.storage.explaining import first_few, first_line, hub_reason, no_model
from chatformer.storage.names import CONFIG_FILE, SENTENCEPIECE_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILES
from chatformer.storage.writing import write_json

from .limits import all_equal, num_positions
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
"""Marian's fields and ours. Two of Marian's that are one of ours must be equal."""

REQUIRED = {
    "normalize_before": (False, "the norm follows each sub-layer"),
    "normalize_embedding": (False, "embeddings are not normalised"),
    "add_final_layer_norm": (False, "no norm follows the last layer"),
    "static_position_embeddings": (True, "positions are sinusoids"),
}
"""Switches of Marian's wider family: the value that a Chatformer has, and what it means."""

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
"""Parts of our names of weights and of Marian's, replaced in this order."""

READS_STREAM = ("shared", "embedding", "query", "key", "value", "inner", "lm_head")
"""Modules whose weight has the residual stream as its second axis; the others have it as their first."""

LAYER_NORM_EPS = 1e-5
"""The constant of Marian's layer normalisation."""


def marian_name(name: str) -> str:
    """Marian's name of one of our weights."""
    for ours, theirs in MODULES.items():
        name = name.replace(ours, theirs)
    return name


def reordered(name: str, tensor: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """A weight, by our name, with its axis of the residual stream in another order."""
    *_, module, kind = name.split(".")
    if module not in READS_STREAM:
        return tensor[order]
    return tensor[:, order] if kind == "weight" else tensor


def alternating_order(d_model: int) -> torch.Tensor:
    """The places of our elements in Marian's halves."""
    return torch.arange(d_model).view(2, -1).T.flatten()


def halved_order(d_model: int) -> torch.Tensor:
    """The places of the elements of Marian's halves in ours."""
    return torch.arange(d_model).view(-1, 2).T.flatten()


def chatformer_config(marian: Mapping[str, Any], *, output_bias: bool) -> ChatformerConfig:
    """Our configuration for Marian's fields; raise a `HubError` that names a field that a Chatformer cannot have."""
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
    """Marian's configuration for ours."""
    if config.layer_norm_eps != LAYER_NORM_EPS:
        raise HubError(
            f"layer_norm_eps must be {LAYER_NORM_EPS}, the constant of Marian's layer normalisation, but it is "
            f"{config.layer_norm_eps}."
        )
    fields = {theirs: getattr(config, ours) for theirs, ours in FIELDS.items()}
    fields["max_position_embeddings"] = num_positions(config)
    return MarianConfig(**fields, scale_embedding=True, forced_eos_token_id=None)


def load_config(name: str, revision: str | None) -> Any:
    """The configuration of a folder or of a model on the Hub."""
    folder = Path(name)
    if folder.is_dir() and not (folder / CONFIG_FILE).is_file():
        raise HubError(f"The folder {name} holds no model: it has no {CONFIG_FILE}.")
    if not folder.is_dir():
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            raise HubError(no_model(error, name)) from error
    try:
        return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    # A broken configuration raises all kinds of errors.
    except Exception as error:
        reason = hub_reason(error, name)
        raise HubError(f"{name} could not be loaded, as a folder or from the Hub: {reason}") from error


def load_weights(
    model_class: Any, name: str, revision: str | None, *, dtype: torch.dtype | str, may_lack: Collection[str] = ()
) -> Any:
    """A model whose checkpoint has exactly its weights."""
    try:
        model, report = model_class.from_pretrained(name, revision=revision, dtype=dtype, output_loading_info=True)
    # A broken file of weights raises all kinds of errors.
    except Exception as error:
        raise HubError(f"The weights of {name} could not be loaded: {first_line(error)}") from error
    missing = sorted(set(report["missing_keys"]) - set(may_lack))
    if missing:
        raise HubError(f"The weights of {name} are incomplete: {first_few(missing)} missing.")
    if report["unexpected_keys"]:
        raise HubError(
            f"The weights of {name} have parts that {model_class.__name__} has no place for: "
            f"{first_few(sorted(report['unexpected_keys']))}."
        )
    return model.eval()


def load_marian(checkpoint: str, revision: str | None) -> MarianMTModel:
    """A MarianMT model in float32, with the stored `dtype` in its configuration; refuse what a Chatformer cannot be."""
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
        # The precision of a sine in sixteen bits.
        if not torch.allclose(table, expected.float(), rtol=0, atol=1e-2):
            raise HubError(f"{name} must be the table of sinusoids, but it holds other numbers, which were learnt.")
        table.copy_(expected)
    return marian


def from_marian(marian: MarianMTModel) -> ChatformerForConditionalGeneration:
    """The Chatformer model, in float32, that equals a MarianMT model."""
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
    Convert weights of a model without the factor sqrt(d_model) of Section 3.4 to weights of a model with it.

    The embedding is divided by the factor. The output shares that matrix, so the norm before it is multiplied.
    """
    factor = math.sqrt(config.d_model)
    last_norm = f"model.decoder.layers.{config.decoder_layers - 1}.feed_forward_norm."
    for name in weights:
        if name.startswith(last_norm):
            weights[name] = weights[name] * factor
        elif name.endswith((".embedding.weight", ".shared.weight", "lm_head.weight")):
            weights[name] = weights[name] / factor


def to_marian(model: ChatformerForConditionalGeneration) -> MarianMTModel:
    """The MarianMT model that equals a Chatformer model."""
    marian = MarianMTModel(marian_config(model.config))
    order = halved_order(model.config.d_model)
    weights = marian.state_dict()
    for name, tensor in model.state_dict().items():
        weights[marian_name(name)] = reordered(name, tensor, order).reshape(weights[marian_name(name)].shape)
    marian.load_state_dict(weights)
    marian.generation_config = GenerationConfig.from_dict(model.generation_config.to_dict())
    return marian.eval()


def write_marian(model: ChatformerForConditionalGeneration, folder: Path) -> None:
    """Write a Chatformer model as a checkpoint that transformers' MarianMTModel loads."""
    to_marian(model).save_pretrained(folder)


def marian_replies(folder: Path, sources: Sequence[Sequence[int]]) -> list[Reply]:
    """The greedy replies of a written checkpoint."""
    marian = load_weights(MarianMTModel, str(folder), None, dtype=torch.float32)
    return [torch_reply(marian, source) for source in sources]


def copy_tokenizer(checkpoint: str, revision: str | None, folder: Path) -> bool:
    """Copy the tokenizer's files and name their class for AutoTokenizer; return False if there are none."""
    names = set()
    for name in TOKENIZER_FILES:
        path = cached_file(
            checkpoint,
            name,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if path is not None:
            names.add(name)
            shutil.copyfile(path, folder / name)
    if SENTENCEPIECE_FILE in names:
        # In old checkpoints the class follows from the type of the model, which has changed.
        config_file = folder / TOKENIZER_CONFIG_FILE
        settings = json.loads(config_file.read_text("utf-8")) if config_file.is_file() else {}
        write_json(config_file, {"tokenizer_class": "MarianTokenizer", **settings})
    return bool(names)
