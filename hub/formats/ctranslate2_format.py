"""
Chatformer in CTranslate2, a runtime in C++ for CPU and GPU that also computes in 8 bits.

The network is declared in CTranslate2's own terms: its converter would lose a row of the vocabulary unless the row of
the padding is the last. Letters behind an array's name are its axes: T target tokens, V vocabulary.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import torch
from ctranslate2.specs import common_spec, transformer_spec

from chatformer.embedding import sinusoids
from chatformer.hub.errors import HubError
from chatformer.storage.names import CTRANSLATE2_VOCABULARY_FILE

from .limits import num_positions
from .parity import MAX_REPLY_TOKENS, Reply, end_tokens

ACTIVATIONS = {
    "relu": common_spec.Activation.RELU,
    "silu": common_spec.Activation.SWISH,
    "swish": common_spec.Activation.SWISH,
    "gelu": common_spec.Activation.GELU,
}

ON_CPU = {"float32": "float32", "float16": "float32", "int8": "int8", "int8_float32": "int8_float32"}
"""The precision of the computation on a CPU, which has no float16, for each precision of stored weights."""


def array(tensor: torch.Tensor) -> np.ndarray:
    """A copy of a weight, since quantization overwrites it."""
    return tensor.detach().float().numpy().copy()


def set_linear(spec: Any, *layers: Any) -> None:
    """Fill in a linear layer, or several that read the same input, side by side."""
    spec.weight = array(torch.cat([layer.weight for layer in layers]))
    if layers[0].bias is not None:
        spec.bias = array(torch.cat([layer.bias for layer in layers]))


def set_norm(spec: Any, norm: Any) -> None:
    spec.gamma, spec.beta = array(norm.weight), array(norm.bias)


def set_self_attention(spec: Any, attention: Any, norm: Any) -> None:
    set_linear(spec.linear[0], attention.query, attention.key, attention.value)
    set_linear(spec.linear[1], attention.output)
    set_norm(spec.layer_norm, norm)


def set_cross_attention(spec: Any, attention: Any, norm: Any) -> None:
    set_linear(spec.linear[0], attention.query)
    set_linear(spec.linear[1], attention.key, attention.value)
    set_linear(spec.linear[2], attention.output)
    set_norm(spec.layer_norm, norm)


def set_feed_forward(spec: Any, feed_forward: Any, norm: Any) -> None:
    set_linear(spec.linear_0, feed_forward.inner)
    set_linear(spec.linear_1, feed_forward.output)
    set_norm(spec.layer_norm, norm)


def ctranslate2_spec(model: Any) -> transformer_spec.TransformerSpec:
    """A Chatformer model in CTranslate2's terms."""
    config = model.config
    spec = transformer_spec.TransformerSpec.from_config(
        (config.encoder_layers, config.decoder_layers),
        config.num_heads,
        pre_norm=False,
        activation=ACTIVATIONS[config.activation],
    )
    # CTranslate2's own positions have another order.
    positions = sinusoids(num_positions(config), config.d_model)
    spec.encoder.position_encodings.encodings = array(positions)
    spec.decoder.position_encodings.encodings = array(positions)
    spec.encoder.embeddings[0].weight = array(model.model.encoder.embedding.weight)
    spec.decoder.embeddings.weight = array(model.model.decoder.embedding.weight)
    for layer_spec, layer in zip(spec.encoder.layer, model.model.encoder.layers, strict=True):
        set_self_attention(layer_spec.self_attention, layer.attention, layer.attention_norm)
        set_feed_forward(layer_spec.ffn, layer.feed_forward, layer.feed_forward_norm)
    for layer_spec, layer in zip(spec.decoder.layer, model.model.decoder.layers, strict=True):
        set_self_attention(layer_spec.self_attention, layer.self_attention, layer.self_attention_norm)
        set_cross_attention(layer_spec.attention, layer.cross_attention, layer.cross_attention_norm)
        set_feed_forward(layer_spec.ffn, layer.feed_forward, layer.feed_forward_norm)
    set_linear(spec.decoder.projection, model.lm_head)
    return spec


def vocabulary(tokenizer: Any, vocab_size: int) -> list[str]:
    """A token for each row, made up if the tokenizer has none for it."""
    tokens = [f"<unused_{row}>" for row in range(vocab_size)]
    for token, row in tokenizer.get_vocab().items():
        tokens[row] = token
    if len(set(tokens)) < vocab_size:
        repeated = sorted(token for token in set(tokens) if tokens.count(token) > 1)
        raise HubError(f"The tokenizer has several rows for one token, {repeated[0]!r}; CTranslate2 takes one.")
    return tokens


def write_ctranslate2(model: Any, tokenizer: Any, folder: Path, *, quantization: str) -> None:
    """Write the weights, the vocabulary and the names of the control tokens, as `ctranslate2.Translator` loads them."""
    config = model.config
    ends = sorted(end_tokens(config))
    if len(ends) != 1:
        raise HubError(f"eos_token_id must be one token, the only end that CTranslate2 knows, but it is {ends}.")
    spec = ctranslate2_spec(model)
    tokens = vocabulary(tokenizer, config.vocab_size)
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    start = tokens[config.decoder_start_token_id]
    spec.config.decoder_start_token = start
    spec.config.bos_token = start
    spec.config.eos_token = tokens[ends[0]]
    # CTranslate2 adds a token that is not in the vocabulary, and the model has no row for it.
    spec.config.unk_token = tokenizer.unk_token or start
    spec.config.layer_norm_epsilon = config.layer_norm_eps
    spec.validate()
    spec.optimize(quantization)
    spec.save(str(folder))


def ctranslate2_replies(folder: Path, sources: Sequence[Sequence[int]], *, quantization: str) -> list[Reply]:
    """The greedy replies of a written folder, to all sources in one batch."""
    try:
        translator = ctranslate2.Translator(
            str(folder), device="cpu", compute_type=ON_CPU[quantization], intra_threads=torch.get_num_threads()
        )
    except (RuntimeError, ValueError) as error:
        raise HubError(f"CTranslate2 could not load the written folder: {error}") from error
    tokens = json.loads((folder / CTRANSLATE2_VOCABULARY_FILE).read_text("utf-8"))
    rows = {token: row for row, token in enumerate(tokens)}
    results = translator.translate_batch(
        [[tokens[row] for row in source] for source in sources],
        beam_size=1,
        max_decoding_length=MAX_REPLY_TOKENS,
        # By default the first token may not be the end.
        min_decoding_length=0,
        return_end_token=True,
        return_logits_vocab=True,
    )
    return [
        Reply(
            ids=[rows[token] for token in result.hypotheses[0]],
            log_probs_TV=torch.from_numpy(
                np.stack([np.asarray(row, dtype=np.float32).reshape(-1) for row in result.logits[0]])
            ).log_softmax(-1),
        )
        for result in results
    ]
