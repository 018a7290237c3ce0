"""The faster modules for training on CPUs compute what torch's compute."""

import copy

import pytest
import torch
from torch import nn

from chatformer import ChatformerConfig, ChatformerForConditionalGeneration
from chatformer.attention import eager_attention
from chatformer.fast_decoding import is_plain
from chatformer.fast_products import HAS_ONEDNN
from chatformer.fast_training import (
    SHORT_ROW,
    CheapAttention,
    CheapDropout,
    OneDnnLinear,
    cheap_attention,
    softmax,
    speed_up,
)

needs_onednn = pytest.mark.skipif(not HAS_ONEDNN, reason="needs AVX512 and torch's oneDNN")


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (3, 5), (1, 1), (0,), (4, 16), (70,)])
@pytest.mark.parametrize("width", [256, 300])
def test_the_product_and_its_gradients_are_torchs(shape, width, bias):
    torch.manual_seed(0)
    shape = (*shape, 256)
    plain = nn.Linear(256, width, bias=bias)
    fast = nn.Sequential(nn.Linear(256, width, bias=bias))
    fast[0].load_state_dict(plain.state_dict())
    speed_up(fast)
    assert type(fast[0]) is OneDnnLinear
    x = torch.randn(shape, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    weights = torch.randn(*shape[:-1], width)
    expected, found = plain(x), fast(y)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(y.grad, x.grad)
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(fast[0].get_parameter(name).grad, parameter.grad)


@needs_onednn
@pytest.mark.parametrize("bfloat16", [False, True])
def test_many_numbers_of_rows_are_few_shapes(bfloat16, monkeypatch):
    layer = nn.Sequential(nn.Linear(256, 300))
    speed_up(layer)
    rows = set()
    for product in ("linear", "pad"):
        plain = getattr(nn.functional, product)
        monkeypatch.setattr(
            nn.functional, product, lambda x, *rest, plain=plain: rows.add(len(plain(x, *rest))) or plain(x, *rest)
        )
    for number in range(1000, 1100):
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            assert layer(torch.randn(1, number, 256)).shape == (1, number, 300)
    assert rows <= {1008, 1024, 1056, 1088, 1120} and len(rows) >= 4


@needs_onednn
def test_tensors_that_lie_otherwise_in_memory_are_read_right():
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(256, 300))
    x = torch.randn(256, 6, requires_grad=True)
    expected = torch.autograd.grad(layer(x.T).sum(), [x, layer[0].weight])
    speed_up(layer)
    # The gradient of a sum is one number in memory, seen as many.
    found = torch.autograd.grad(layer(x.T).sum(), [x, layer[0].weight])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("p", [0.1, 0.3])
def test_dropout_keeps_its_share_and_the_mean(p):
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Dropout(p))
    speed_up(layer)
    assert type(layer[0]) is CheapDropout
    x = torch.ones(999, 1001, requires_grad=True)
    dropped = layer(x)
    dropped.sum().backward()
    share = (dropped == 0).float().mean().item()
    # Four standard deviations of a million draws.
    assert share == pytest.approx(p, abs=0.002)
    kept = dropped[dropped != 0]
    assert torch.equal(kept, kept[0].expand_as(kept)) and kept[0].item() == pytest.approx(1 / (1 - p), rel=1e-4)
    assert torch.equal(x.grad, dropped)
    # Each element by itself: rows and columns, neighbours and each fourth element agree by chance only.
    is_kept = (dropped != 0).float() - (1 - share)
    for one, other in (
        (is_kept[1:], is_kept[:-1]),
        (is_kept[:, 1:], is_kept[:, :-1]),
        (is_kept[:, 4:], is_kept[:, :-4]),
    ):
        assert abs((one * other).mean().item()) < 0.001
    assert not torch.equal(layer(x), dropped)
    assert torch.equal(layer.eval()(x), x)


def test_dropout_is_drawn_from_torchs_generator():
    layer = nn.Sequential(nn.Dropout(0.5))
    speed_up(layer)
    x = torch.ones(5, 7, dtype=torch.bfloat16)
    torch.manual_seed(1)
    first = layer(x)
    torch.manual_seed(1)
    assert first.dtype == torch.bfloat16 and torch.equal(layer(x), first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_queries, num_keys", [(5, 7), (9, SHORT_ROW), (1, 40)])
@pytest.mark.parametrize("mask", ["none", "of keys", "of each query"])
def test_the_attention_and_its_gradients_are_the_papers(dtype, num_queries, num_keys, mask):
    torch.manual_seed(0)
    inputs = [3 * torch.randn(30, length, 4, 8) for length in (num_queries, num_keys, num_keys)]
    weights = torch.randn(30, num_queries, 4, 8)
    masks = {
        "none": None,
        "of keys": torch.finfo(torch.float32).min * (torch.rand(30, 1, 1, num_keys) < 0.4),
        "of each query": torch.randn(30, 1, num_queries, num_keys),
    }

    def attend(attention, dtype):
        leaves = [tensor.to(dtype, copy=True).requires_grad_() for tensor in inputs]
        attended, weights_BHQK = attention(nn.Module(), *(x.transpose(1, 2) for x in leaves), masks[mask])
        (attended * weights).sum().backward()
        return attended.detach(), weights_BHQK.detach(), *(leaf.grad for leaf in leaves)

    exact = attend(eager_attention, torch.float32)
    found = attend(cheap_attention, dtype)
    if dtype == torch.float32:
        torch.testing.assert_close(found, exact)
    else:
        # As close to the truth as the plain attention is in this precision.
        for one, plain, true in zip(found, attend(eager_attention, dtype), exact, strict=True):
            assert one.dtype == dtype and (one - true).norm() <= 1.2 * (plain - true).norm()


@pytest.mark.parametrize("num_keys", [5, SHORT_ROW])
def test_what_is_masked_has_no_weight_at_all(num_keys):
    scores = torch.zeros(4, num_keys)
    scores[0, 1:] = torch.finfo(torch.float32).min
    scores[1, 1] = -86
    scores[2] = torch.finfo(torch.float32).min
    expected = scores.softmax(-1)
    assert expected[0, 1] == 0 < expected[1, 1]
    torch.testing.assert_close(softmax(scores), expected, rtol=1e-5, atol=0)


def test_what_that_attention_is_not_for_is_left_to_the_papers(monkeypatch):
    monkeypatch.setattr(CheapAttention, "apply", None)
    query, key = torch.randn(2, 2, 3, 8), torch.randn(2, 2, 5, 8)
    cheap_attention(nn.Module(), query, key, key, None)
    query.requires_grad_()
    cheap_attention(nn.Module(), query, key, key, torch.ones(2, 1, 3, 5, dtype=torch.bool))
    _, weights = cheap_attention(nn.Module(), query, key, key, None, dropout=0.5)
    torch.testing.assert_close(weights, (query @ key.transpose(-2, -1) * 8**-0.5).softmax(-1))
    with pytest.raises(TypeError):
        cheap_attention(nn.Module(), query, key, key, None)


def test_a_sped_up_model_learns_what_a_plain_one_learns():
    config = ChatformerConfig(
        vocab_size=50, d_model=256, d_ff=256, num_heads=4, encoder_layers=2, decoder_layers=2, dropout=0.0
    )
    plain = ChatformerForConditionalGeneration(config).train()
    plain.set_attn_implementation("eager")
    fast = copy.deepcopy(plain)
    speed_up(fast)
    labels = torch.randint(4, 50, (3, 5))
    labels[1, 3:] = -100
    batch = {"input_ids": torch.randint(4, 50, (3, 6)), "attention_mask": torch.ones(3, 6, dtype=torch.int64)}
    batch["attention_mask"][0, 4:] = 0
    losses = [model(**batch, labels=labels, label_smoothing=0.1).loss for model in (plain, fast)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    plain_nodes, fast_nodes = ({node.name() for node in nodes_of(loss.grad_fn)} for loss in losses)
    assert "CheapAttentionBackward" in fast_nodes - plain_nodes
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(fast.get_parameter(name).grad, parameter.grad, rtol=1e-4, atol=1e-6)


def nodes_of(root):
    """Return all functions of the graph behind a result."""
    nodes, ahead = set(), [root]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            ahead += [following for following, _ in node.next_functions]
    return nodes


def test_a_model_stays_what_it_is(tmp_path):
    config = ChatformerConfig(vocab_size=50, d_model=32, d_ff=64, num_heads=2, encoder_layers=1, decoder_layers=2)
    model = ChatformerForConditionalGeneration(config).eval()
    batch = {"input_ids": torch.randint(4, 50, (2, 6)), "labels": torch.randint(4, 50, (2, 5))}
    expected = model(**batch)
    speed_up(model)
    found = model(**batch)
    torch.testing.assert_close(found.logits, expected.logits)
    model.save_pretrained(tmp_path)
    again = ChatformerForConditionalGeneration.from_pretrained(tmp_path)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert type(again.lm_head) is nn.Linear and type(again.model.encoder.dropout) is nn.Dropout


def test_a_sped_up_model_still_decodes_without_modules():
    config = ChatformerConfig(vocab_size=50, d_model=256, d_ff=256, num_heads=4, encoder_layers=1, decoder_layers=1)
    model = ChatformerForConditionalGeneration(config).eval()
    speed_up(model)
    assert {type(module) for module in model.modules()} >= {CheapDropout, *([OneDnnLinear] if HAS_ONEDNN else [])}
    assert is_plain(model, model.model.decoder, model.lm_head) and model._forward_pre_hooks

    class NoisyDropout(CheapDropout):
        def forward(self, x):
            return x + 1

    model.model.decoder.dropout.__class__ = NoisyDropout
    assert not is_plain(model, model.model.decoder, model.lm_head)
