"""Without padding, training and scoring compute the same."""

import copy

import pytest
import torch
from torch import nn

from chatformer import ChatformerConfig, ChatformerForConditionalGeneration, fast_packing
from chatformer.fast_packing import LEAST_PADDING, PackedMask, packing_of
from chatformer.fast_training import speed_up

V = 40
SOURCE_LENGTHS, TARGET_LENGTHS = [9, 2, 1, 5, 3], [2, 7, 1, 3, 4]


def model_and_fast_one(**fields):
    torch.manual_seed(0)
    config = ChatformerConfig(
        vocab_size=V,
        d_model=32,
        num_heads=4,
        encoder_layers=2,
        decoder_layers=2,
        d_ff=48,
        dropout=0.0,
        **fields,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    model = ChatformerForConditionalGeneration(config).train()
    model.set_attn_implementation("eager")
    fast = copy.deepcopy(model)
    speed_up(fast)
    return model, fast


def batch_of(source_lengths=SOURCE_LENGTHS, target_lengths=TARGET_LENGTHS, *, side="right"):
    generator = torch.Generator().manual_seed(1)

    def rows(lengths):
        column = torch.arange(max(lengths))
        length = torch.tensor(lengths)[:, None]
        is_token = column < length if side == "right" else column >= max(lengths) - length
        return torch.randint(3, V, is_token.shape, generator=generator), is_token

    (sources, is_source), (targets, is_target) = rows(source_lengths), rows(target_lengths)
    return {
        "input_ids": sources.masked_fill(~is_source, 0),
        "attention_mask": is_source.long(),
        "labels": targets.masked_fill(~is_target, -100),
    }


class Rows:
    """The numbers of rows that a module is given."""

    def __init__(self, module):
        self.found = []
        module.register_forward_pre_hook(lambda _, inputs: self.found.append(inputs[0].shape[:-1].numel()))


def assert_the_same_training(model, fast, batch, **options):
    """The same losses and gradients, to float32's rounding."""
    expected, found = (each(**batch, return_logits=False, **options).loss for each in (model, fast))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-5)
    expected.backward()
    found.backward()
    for (name, parameter), other in zip(model.named_parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(other.grad, parameter.grad, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_loss_and_gradients_are_the_same_and_padding_is_not_computed(side, label_smoothing):
    model, fast = model_and_fast_one()
    source, target = (Rows(stack.layers[0].feed_forward) for stack in (fast.model.encoder, fast.model.decoder))
    assert_the_same_training(model, fast, batch_of(side=side), label_smoothing=label_smoothing)
    assert source.found == [sum(SOURCE_LENGTHS)]
    # Behind the last label nothing is computed; before the first one, the decoder reads.
    assert target.found == [sum(TARGET_LENGTHS) if side == "right" else len(TARGET_LENGTHS) * max(TARGET_LENGTHS)]


def test_rows_of_padding_fill_up_to_one_of_few_numbers(monkeypatch):
    monkeypatch.setattr(fast_packing, "HAS_ONEDNN", True)
    model, fast = model_and_fast_one()
    for stack in (fast.model.encoder, fast.model.decoder):
        stack.layers.is_wide = True
    source, target = (Rows(stack.layers[0].feed_forward) for stack in (fast.model.encoder, fast.model.decoder))
    assert_the_same_training(model, fast, batch_of(), label_smoothing=0.1)
    # The next multiples of 16 behind 20 and 17 tokens.
    assert source.found == [32] and target.found == [32]
    # Of few sentences all padding, but no more.
    assert_the_same_training(model, fast, batch_of([2, 9], [4, 4]), label_smoothing=0.1)
    assert source.found[1:] == [16] and target.found[1:] == [8]


@pytest.mark.parametrize("full", ["source", "target"])
def test_one_of_both_may_have_no_padding(full):
    lengths = {"source_lengths": [5] * 5} if full == "source" else {"target_lengths": [4] * 5}
    assert_the_same_training(*model_and_fast_one(), batch_of(**lengths))


def test_r_drop_and_labels_that_do_not_count_in_the_middle():
    model, fast = model_and_fast_one()
    batch = batch_of()
    batch["labels"][1, 2:4] = -100
    doubled = {name: torch.cat([tensor, tensor]) for name, tensor in batch.items()}
    assert_the_same_training(model, fast, doubled, rdrop_alpha=1.0)


def test_activations_in_checkpoints_are_computed_again_without_padding():
    model, fast = model_and_fast_one()
    fast.gradient_checkpointing_enable()
    assert_the_same_training(model, fast, batch_of())


def test_in_bfloat16_the_same_up_to_its_rounding():
    model, fast = model_and_fast_one()
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = (each(**batch_of(), return_logits=False).loss for each in (model, fast))
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
    found.backward()
    assert all(parameter.grad.isfinite().all() for parameter in fast.parameters())


@torch.no_grad()
def test_scores_are_the_same():
    model, fast = model_and_fast_one()
    batch = batch_of()
    counts = batch["labels"] != -100
    expected, found = (each.eval()(**batch) for each in (model, fast))
    torch.testing.assert_close(found.logits[counts], expected.logits[counts], rtol=1e-5, atol=1e-5)
    is_source = batch["attention_mask"].bool()
    memories = [each.encoder_last_hidden_state for each in (expected, found)]
    torch.testing.assert_close(memories[1][is_source], memories[0][is_source], rtol=1e-5, atol=1e-5)
    assert not memories[1][~is_source].any()


@torch.no_grad()
def test_what_shows_the_inside_has_its_padding():
    model, fast = model_and_fast_one()
    for options in ({"output_hidden_states": True}, {"output_attentions": True}):
        expected, found = (each(**batch_of(), **options) for each in (model, fast))
        for name in ("encoder_hidden_states", "decoder_hidden_states", "decoder_attentions", "cross_attentions"):
            for one, other in zip(getattr(expected, name) or (), getattr(found, name) or (), strict=True):
                torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)


def test_a_mask_that_hides_more_than_padding_is_obeyed():
    model, fast = model_and_fast_one()
    batch = batch_of()
    hidden = torch.finfo(torch.float32).min
    mask = batch["attention_mask"][:, None, None].expand(-1, -1, 9, -1).clone()
    # Each token but the last sees only itself and its neighbours.
    near = (torch.arange(9)[:, None] - torch.arange(9)).abs() <= 1
    near[-1] = True
    mask = torch.where(mask.bool() & near, 0.0, hidden)
    rows = Rows(fast.model.encoder.layers[0].feed_forward)
    expected, found = (each.model.encoder(batch["input_ids"], mask)[0] for each in (model, fast))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert rows.found == [5 * 9]


def test_a_source_without_tokens_is_computed_as_it_is():
    model, fast = model_and_fast_one()
    batch = batch_of()
    batch["attention_mask"][3] = 0
    assert_the_same_training(model, fast, batch)


@pytest.mark.parametrize(
    "fields", [{"self_attention": "strided", "stride": 3}, {"self_attention": "fixed", "stride": 3}]
)
def test_sparse_layers_keep_their_sets(fields):
    assert_the_same_training(*model_and_fast_one(**fields), batch_of())


def test_little_padding_is_not_worth_it():
    mask = torch.zeros(1, 1, 1, 100)
    mask[..., : int(100 * LEAST_PADDING) - 1] = -1e9
    assert packing_of(mask, 2) is None
    mask[..., : int(100 * LEAST_PADDING) + 1] = -1e9
    assert packing_of(mask, 2) is not None


def test_packed_and_padded_are_each_others_inverse():
    is_token = torch.tensor([[1, 1, 0], [0, 1, 0]]).bool()
    mask = torch.where(is_token, 0.0, -1e9)[:, None, None].expand(-1, -1, 3, -1)
    packing = packing_of(mask, 2)
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    packed = packing.pack(x)
    torch.testing.assert_close(packed, x[is_token][None])
    torch.testing.assert_close(packing.pad(packed), x * is_token[..., None])
    heads = packed.unflatten(-1, (2, 2)).transpose(1, 2)
    padded = packing.pad_heads(heads)
    torch.testing.assert_close(padded.transpose(1, 2)[is_token], heads[0].transpose(0, 1))
    torch.testing.assert_close(packing.pack_heads(padded.transpose(1, 2)), heads.transpose(1, 2))
    for function in (packing.pack, lambda x: packing.pad(packing.pack(x))):
        assert torch.autograd.gradcheck(function, x)
    heads = heads.detach().requires_grad_()
    weights = torch.randn(2, 2, 3, 2, dtype=torch.float64) * is_token[:, None, :, None]
    assert torch.autograd.gradcheck(lambda heads: packing.pad_heads(heads) * weights, heads)
    padded = padded.detach().transpose(1, 2).requires_grad_()
    assert torch.autograd.gradcheck(packing.pack_heads, padded)


def test_the_attention_between_is_that_of_the_padded_batch():
    seen = []

    def attention(query, key, value, mask):
        seen.append((query.shape, key.shape, mask))
        return query.transpose(1, 2), None

    is_token = torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    mask = torch.where(is_token, 0.0, -1e9)[:, None, None].expand(-1, -1, 3, -1)
    packing = packing_of(mask, 2)
    heads = torch.randn(1, 2, 3, 4)
    attended, _ = PackedMask(mask, packing, packing).attend(attention, heads, heads, heads)
    torch.testing.assert_close(attended, heads.transpose(1, 2))
    assert seen == [((2, 2, 3, 4), (2, 2, 3, 4), mask)]


def test_what_is_no_mask_of_the_eager_attention_is_left_alone():
    for mask in (None, torch.zeros(1, 1, 1, 4, dtype=torch.bool), object()):
        assert packing_of(mask, 2) is None


def test_the_stacks_of_a_saved_model_are_plain(tmp_path):
    model, fast = model_and_fast_one()
    fast.save_pretrained(tmp_path)
    again = ChatformerForConditionalGeneration.from_pretrained(tmp_path)
    assert again.state_dict().keys() == model.state_dict().keys()
    assert type(again.model.encoder.layers) is type(model.model.encoder.layers)
    assert isinstance(again.model.encoder.layers, nn.ModuleList)
