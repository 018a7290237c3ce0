import numpy as np
import pytest
import torch
from torch import nn
from torch.profiler import profile

from chatformer import ChatformerConfig, ChatformerForConditionalGeneration
from chatformer.attention import MultiHeadAttention, attention, eager_attention
from chatformer.embedding import SinusoidalPositions
from chatformer.fast_loss import LOGITS_AT_ONCE, fused_loss
from chatformer.feed_forward import FeedForward
from chatformer.loss import label_smoothed_cross_entropy


def formula_of_positions(positions, d_model):
    """Section 3.5 in float64: the sine in even columns, the cosine of the same angle in odd ones."""
    column = np.arange(d_model)
    angle = np.asarray(positions, dtype=np.float64)[:, None] / np.power(10000.0, 2 * (column // 2) / d_model)
    return np.where(column % 2 == 0, np.sin(angle), np.cos(angle))


@pytest.mark.parametrize("num_tabulated", [10_001, 16], ids=["tabulated", "grown"])
def test_sinusoids_are_exact_at_far_positions(num_tabulated):
    positions = [0, 1, 15, 16, 9_999, 10_000]
    found = SinusoidalPositions(num_tabulated, 512)(torch.tensor([positions]), 10_001)
    assert found.dtype == torch.float32
    assert np.abs(found[0].double().numpy() - formula_of_positions(positions, 512)).max() < 1e-6


def test_sinusoids_are_exact_after_from_pretrained(make_model, tmp_path):
    make_model(max_position_embeddings=10_001).save_pretrained(tmp_path)
    loaded = ChatformerForConditionalGeneration.from_pretrained(tmp_path)
    for part in (loaded.model.encoder, loaded.model.decoder):
        found = part.positions(torch.tensor([[3, 10_000]]), 10_001)[0].double().numpy()
        assert np.abs(found - formula_of_positions([3, 10_000], 64)).max() < 1e-6


@pytest.mark.parametrize("mask", ["none", "bool", "additive"])
def test_attention_is_torchs(mask):
    torch.manual_seed(0)
    query_BHQC, key_BHKC, value_BHKC = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    mask_BHQK = torch.rand(2, 1, 5, 7) < 0.6
    mask_BHQK[..., 0] = True
    mask_BHQK = {"none": None, "bool": mask_BHQK, "additive": torch.randn(2, 1, 5, 7)}[mask]
    attended_BHQC, weights_BHQK = attention(query_BHQC, key_BHKC, value_BHKC, mask_BHQK)
    attended_BQHC, _ = eager_attention(nn.Module(), query_BHQC, key_BHKC, value_BHKC, mask_BHQK, scaling=8**-0.5)
    expected_BHQC = nn.functional.scaled_dot_product_attention(query_BHQC, key_BHKC, value_BHKC, attn_mask=mask_BHQK)
    torch.testing.assert_close(attended_BHQC, expected_BHQC, rtol=0, atol=1e-6)
    torch.testing.assert_close(attended_BQHC, expected_BHQC.transpose(1, 2), rtol=0, atol=1e-6)
    torch.testing.assert_close(weights_BHQK @ value_BHKC, expected_BHQC, rtol=0, atol=1e-6)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_multi_head_attention_is_torchs(implementation):
    torch.manual_seed(0)
    config = ChatformerConfig(d_model=48, num_heads=3, attn_implementation=implementation)
    ours, torchs = MultiHeadAttention(config, 0), nn.MultiheadAttention(48, 3, batch_first=True)
    nn.init.normal_(torchs.in_proj_bias)
    nn.init.normal_(torchs.out_proj.bias)
    weights, biases = torchs.in_proj_weight.chunk(3), torchs.in_proj_bias.chunk(3)
    for linear, weight, bias in zip((ours.query, ours.key, ours.value), weights, biases, strict=True):
        linear.load_state_dict({"weight": weight, "bias": bias})
    ours.output.load_state_dict(torchs.out_proj.state_dict())

    x_BQD, source_BKD = torch.randn(2, 5, 48), torch.randn(2, 7, 48)
    mask_BHQK = torch.rand(2, 1, 5, 7) < 0.6
    mask_BHQK[..., 0] = True
    found, weights = ours(x_BQD, source_BKD, mask_BHQK, output_attentions=implementation == "eager")
    expected, expected_weights = torchs(
        x_BQD,
        source_BKD,
        source_BKD,
        attn_mask=~mask_BHQK.expand(2, 3, 5, 7).flatten(0, 1),
        average_attn_weights=False,
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    if implementation == "eager":
        torch.testing.assert_close(weights, expected_weights, rtol=0, atol=1e-6)


def test_feed_forward_is_the_formula():
    torch.manual_seed(0)
    feed_forward = FeedForward(ChatformerConfig(d_model=48, d_ff=100, num_heads=3)).eval()
    x = torch.randn(2, 5, 48)
    w1, b1, w2, b2 = (parameter.detach().double().numpy() for parameter in feed_forward.parameters())
    expected = np.maximum(0, x.double().numpy() @ w1.T + b1) @ w2.T + b2
    assert np.abs(feed_forward(x).detach().double().numpy() - expected).max() < 1e-6


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("num_items_in_batch", [None, 40, torch.tensor(40)])
def test_the_loss_is_the_formula(label_smoothing, num_items_in_batch):
    torch.manual_seed(0)
    logits, labels = 3 * torch.randn(3, 5, 11), torch.randint(11, (3, 5))
    labels[0, 3:] = labels[2, :2] = -100
    loss = 0.0
    for row, label in zip(logits.flatten(0, 1).double().numpy(), labels.flatten().tolist(), strict=True):
        if label != -100:
            log_probabilities = row - np.log(np.exp(row).sum())
            wanted = np.full(11, label_smoothing / 11)
            wanted[label] += 1 - label_smoothing
            loss -= (wanted * log_probabilities).sum()
    found = fused_loss(logits, labels, num_items_in_batch, label_smoothing)
    assert found.item() == pytest.approx(loss / (11 if num_items_in_batch is None else 40), rel=1e-6)
    plain = label_smoothed_cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing)
    assert plain.item() == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
def test_the_fast_loss_and_its_gradient_are_the_plain_ones(label_smoothing):
    torch.manual_seed(0)
    logits, labels = (3 * torch.randn(4, 9, 50)).requires_grad_(), torch.randint(50, (4, 9))
    labels[0, 3:] = labels[2] = -100
    plain = label_smoothed_cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing)
    fast = fused_loss(logits, labels, 1, label_smoothing)
    assert "SummedLoss" in fast.grad_fn.next_functions[0][0].name()
    torch.testing.assert_close(fast, plain)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits) for loss in (fast, plain)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("num_items_in_batch", [None, 40])
def test_the_loss_and_its_gradient_are_torchs(monkeypatch, dtype, label_smoothing, num_items_in_batch):
    # Seven tokens at a time, so that the last are fewer.
    monkeypatch.setitem(LOGITS_AT_ONCE, "cpu", 7 * 50)
    torch.manual_seed(0)
    logits = (3 * torch.randn(4, 9, 50)).to(dtype).requires_grad_()
    labels = torch.randint(50, (4, 9))
    labels[0, 3:] = labels[2] = -100
    plain = logits.detach().float().clone().requires_grad_()
    expected = torch.nn.functional.cross_entropy(
        plain.flatten(0, 1), labels.flatten(), reduction="sum", label_smoothing=label_smoothing
    ) / (num_items_in_batch or int((labels != -100).sum()))
    found = fused_loss(logits, labels, num_items_in_batch, label_smoothing)
    assert torch.equal(logits.float(), plain)
    # Somebody else's factor, such as that of a loss scaler.
    (1024 * expected).backward()
    (1024 * found).backward()
    torch.testing.assert_close(found, expected)
    assert logits.grad.dtype == dtype
    torch.testing.assert_close(logits.grad, plain.grad.to(dtype))
    with torch.no_grad():
        torch.testing.assert_close(fused_loss(plain.to(dtype), labels, num_items_in_batch, label_smoothing), expected)


@pytest.mark.parametrize("rdrop_alpha", [0.0, 3.0])
@pytest.mark.parametrize("frozen", [None, "weight", "bias", "hidden"])
def test_the_loss_of_hidden_states_is_that_of_their_logits(monkeypatch, rdrop_alpha, frozen):
    torch.manual_seed(0)
    # Five tokens at a time, or five of each reading, so that the last are fewer.
    monkeypatch.setattr("chatformer.fast_loss.TOKENS_AT_ONCE", 10 if rdrop_alpha else 5)
    head = nn.Linear(8, 50)
    hidden = (3 * torch.randn(4, 5, 8)).requires_grad_()
    inputs = {"hidden": hidden, "weight": head.weight, "bias": head.bias}
    if frozen:
        inputs.pop(frozen).requires_grad_(False)
    labels = torch.randint(50, (2, 5)).repeat(2, 1)
    labels[:, 3:] = -100
    sizes = []
    head.register_forward_hook(lambda _, arguments, logits: sizes.append(logits.numel()))
    in_pieces = fused_loss(hidden, labels, 7, 0.1, rdrop_alpha, head=head)
    # Of the 20 labels, 8 do not count.
    assert max(sizes) == (10 if rdrop_alpha else 5) * 50 and sum(sizes) == 12 * 50
    losses = in_pieces, fused_loss(head(hidden), labels, 7, 0.1, rdrop_alpha)
    torch.testing.assert_close(*losses)
    found, expected = (torch.autograd.grad(8 * loss, inputs.values(), retain_graph=True) for loss in losses)
    torch.testing.assert_close(found, expected)
    # What is kept for the backward pass is as it was.
    for loss in losses:
        torch.testing.assert_close(torch.autograd.grad(8 * loss, inputs.values()), expected)


def test_a_loss_without_logits_takes_the_memory_of_a_piece():
    head, hidden = nn.Linear(4, 20_000, bias=False), torch.randn(8, 1024, 4, requires_grad=True)
    labels = torch.randint(20_000, (8, 1024))
    largest = {}
    for name, predictions, options in (("piece", hidden, {"head": head}), ("all", head(hidden), {})):
        with profile(profile_memory=True) as profiled:
            fused_loss(predictions, labels, **options).backward()
        largest[name] = max(event.cpu_memory_usage for event in profiled.events())
    assert largest["all"] >= 8 * 1024 * 20_000 * 4
    assert largest["piece"] < 1.01 * largest["all"] / 8


def test_another_loss_or_another_head_is_given_all_logits(make_model):
    model = make_model()
    source, labels = torch.randint(6, 50, (2, 5)), torch.randint(6, 50, (2, 4))
    expected = model(source, labels=labels).loss

    class Head(nn.Module):
        def __init__(self, linear):
            super().__init__()
            self.linear = linear

        def forward(self, x):
            return self.linear(x)

    model.loss_function = lambda logits, labels, **_: logits.sum() * 0 + logits.shape[-1]
    assert model(source, labels=labels, return_logits=False).loss == model.config.vocab_size
    model.loss_function = fused_loss
    model.lm_head = Head(model.lm_head)
    torch.testing.assert_close(model(source, labels=labels, return_logits=False).loss, expected)


@pytest.mark.parametrize(("given", "std"), [(None, 1 / 8), (0.02, 0.02)])
def test_an_embedding_begins_as_large_as_its_width_or_the_configuration_says(given, std):
    torch.manual_seed(0)
    config = ChatformerConfig(
        vocab_size=5000, d_model=64, num_heads=2, encoder_layers=1, decoder_layers=1, embedding_initializer_range=given
    )
    model = ChatformerForConditionalGeneration(config)
    assert model.get_input_embeddings().weight.std().item() == pytest.approx(std, rel=0.02)
    assert model.model.encoder.layers[0].attention.query.weight.std().item() == pytest.approx(0.02, rel=0.05)
