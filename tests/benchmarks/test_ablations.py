"""The ablations take out the part that they name, and nothing else."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from chatformer import ChatformerConfig, ChatformerForConditionalGeneration

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def ablations():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield importlib.import_module("ablations")
    sys.modules.pop("ablations", None)


@pytest.fixture
def model():
    torch.manual_seed(1)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    sizes = {"vocab_size": 40, "d_model": 32, "num_heads": 2, "encoder_layers": 2, "decoder_layers": 1}
    config = ChatformerConfig(**sizes, dropout=0.0, initializer_range=0.3, **special)
    return ChatformerForConditionalGeneration(config).eval()


def encoded(model, ids):
    with torch.no_grad():
        return model.model.encoder(torch.tensor([ids])).last_hidden_state[0]


def test_without_positions_the_order_is_lost(ablations, model):
    assert not torch.allclose(encoded(model, [5, 6, 7])[[2, 1, 0]], encoded(model, [7, 6, 5]), atol=1e-3)
    ablations.without_positions(model)
    assert torch.allclose(encoded(model, [5, 6, 7])[[2, 1, 0]], encoded(model, [7, 6, 5]), atol=1e-5)


def test_layers_are_what_is_left(ablations, model):
    layer, x = model.model.encoder.layers[0], torch.randn(1, 4, 32)
    with torch.no_grad():
        attended, _ = layer.attention(x, x, None)
        summed = layer.attention_norm(x + attended)
        ablations.without_feed_forward(model)
        assert torch.allclose(layer(x, None)[0], layer.feed_forward_norm(summed), atol=1e-5)
        ablations.without_norm(model)
        assert torch.allclose(layer(x, None)[0], x + attended, atol=1e-5)


def test_without_add_nothing_of_the_input_is_left(ablations, model):
    layer, x = model.model.decoder.layers[0], torch.randn(1, 4, 32)
    memory = torch.randn(1, 3, 32)
    with torch.no_grad():
        attended, _ = layer.self_attention(x, x, None)
        attended = layer.self_attention_norm(attended)
        crossed, _ = layer.cross_attention(attended, memory, None)
        crossed = layer.cross_attention_norm(crossed)
        expected = layer.feed_forward_norm(layer.feed_forward(crossed))
        ablations.without_add(model)
        assert torch.allclose(layer(x, None, memory, None)[0], expected, atol=1e-5)


def test_without_scaling_the_scores_are_the_bare_products(ablations, model):
    attention, x = model.model.encoder.layers[0].attention, torch.randn(1, 4, 32)
    with torch.no_grad():
        query, key = attention.split_heads(attention.query(x)), attention.split_heads(attention.key(x))
        ablations.without_scaling(model)
        model.set_attn_implementation("eager")
        _, weights = attention(x, x, None, output_attentions=True)
        assert torch.allclose(weights, (query @ key.transpose(-2, -1)).softmax(-1), atol=1e-5)


def test_a_variant_replies_with_what_is_left(ablations, model):
    """The fast decoder knows that these models are not plain."""
    for name, (_, take_out) in ablations.VARIANTS.items():
        take_out(model)
        with torch.no_grad():
            replies = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, min_new_tokens=4, do_sample=False)
            logits = model(input_ids=torch.tensor([[5, 6, 7]]), decoder_input_ids=replies[:, :-1]).logits
        logits[..., 2] = -torch.inf
        assert replies[0, 1:].tolist() == logits[0].argmax(-1).tolist(), name


def test_the_table(ablations):
    figures = {"eval_loss": 1.0, "eval_exact_match": 5.0, "eval_distinct_replies": 20, "eval_source_gain": -0.001}
    results = {"complete": figures, "norm": {}}
    assert ablations.table(results).splitlines()[2:] == [
        "| nothing: the complete model | 1.00 | 5% | 20 | 0.00 |",
        "| norm: no layer normalization | the training failed |  |  |  |",
    ]
