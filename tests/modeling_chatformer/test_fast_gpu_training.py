"""
Batches that are packed for a GPU: the same losses and gradients as with padding.

Triton computes its kernels on CPUs, too, when it interprets them, which a variable of the environment decides before
its import. So these tests run in a process of their own.
"""

import os
import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("triton")
pytestmark = pytest.mark.slow

PREPARED = """
import copy, torch
from chatformer import ChatformerConfig, ChatformerForConditionalGeneration
from chatformer import fused_add_norm, fused_linear
from chatformer.fast_gpu_training import PACKED, PackedBatch, begin_packing, end_packing, pack_batches
from chatformer.short_attention import short_attention

def model_and_packed(**fields):
    torch.manual_seed(0)
    config = ChatformerConfig(
        vocab_size=40, d_model=32, num_heads=2, encoder_layers=2, decoder_layers=2, d_ff=48, dropout=0.0, **fields,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )
    model = ChatformerForConditionalGeneration(config).train()
    packed = copy.deepcopy(model)
    return model, packed, pack_batches(packed)

def batch_of(source_lengths, target_lengths, side="right"):
    def rows(lengths):
        column, length = torch.arange(max(lengths)), torch.tensor(lengths)[:, None]
        is_token = column < length if side == "right" else column >= max(lengths) - length
        return torch.randint(3, 40, is_token.shape), is_token
    (sources, is_source), (targets, _) = rows(source_lengths), rows(target_lengths)
    is_target = torch.arange(max(target_lengths)) < torch.tensor(target_lengths)[:, None]
    return {
        "input_ids": sources.masked_fill(~is_source, 0),
        "attention_mask": is_source.long(),
        "labels": targets.masked_fill(~is_target, -100),
    }

def assert_same(model, packed, batch, **options):
    losses = []
    for each in (model, packed):
        each.zero_grad()
        loss = each(**batch, num_items_in_batch=7, label_smoothing=0.1, return_logits=False, **options).loss
        loss.backward()
        losses.append(loss.detach())
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-5)
    for (name, expected), found in zip(model.named_parameters(), packed.parameters()):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-5, atol=1e-5, msg=name)
"""


def interpreted(code):
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PREPARED + textwrap.dedent(code)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.timeout(300)
def test_the_kernels_are_attention():
    interpreted("""
        for causal, queries, keys in ((False, [3, 1, 17], [5, 2, 1]), (True, [3, 0, 33], [3, 1, 33])):
            starts = [torch.tensor([0, *lengths]).cumsum(0).int() for lengths in (queries, keys)]
            q, k, v = (torch.randn(sum(n), 2, 16, requires_grad=True) for n in (queries, keys, keys))
            found = short_attention(q, k, v, *starts, 16**-0.5, causal)
            expected = torch.cat([
                torch.nn.functional.scaled_dot_product_attention(
                    *(x.transpose(0, 1)[None] for x in each), is_causal=causal
                )[0].transpose(0, 1)
                for each in zip(q.split(queries), k.split(keys), v.split(keys))
            ])
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
            gradient = torch.randn_like(found)
            for ours, theirs in zip(*(torch.autograd.grad(y, (q, k, v), gradient) for y in (found, expected))):
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        """)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_add_and_norm_in_one_kernel(dropout):
    interpreted(f"""
        # Several programs, each of several turns, the last of which has little to do.
        fused_add_norm.ELEMENTS, fused_add_norm.TURNS, dropout = 256, 3, {dropout}
        norm = torch.nn.LayerNorm(48)
        torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
        x, y = (torch.randn(1, 37, 48, requires_grad=True) for _ in range(2))
        inputs = x, y, norm.weight, norm.bias
        found = fused_add_norm.add_norm(x, y, torch.nn.Dropout(dropout), norm)
        gradient = torch.randn_like(found)
        gradients = torch.autograd.grad(found, inputs, gradient)
        keeps = gradients[1] != 0
        assert abs(keeps.float().mean() - (1 - dropout)) < 0.05
        expected = norm(x + y * keeps / (1 - dropout))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        for ours, theirs in zip(gradients, torch.autograd.grad(expected, inputs, gradient)):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        # Other elements the next time, in the precision of what is added, and all of them in evaluation.
        again = fused_add_norm.add_norm(x, y, torch.nn.Dropout(dropout), norm)
        assert torch.equal(again, found) == (not dropout)
        half = fused_add_norm.add_norm(x, y.bfloat16(), torch.nn.Dropout(dropout).eval(), norm)
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), norm(x + y), rtol=2e-2, atol=2e-2)
        """)


@pytest.mark.timeout(300)
def test_linear_layers_with_a_quicker_gradient_of_the_bias():
    interpreted("""
        fused_linear.PROGRAMS = 3
        linear, x = torch.nn.Linear(48, 80), torch.randn(1, 201, 48, requires_grad=True)
        gradient = torch.randn(1, 201, 80)
        expected, inputs = linear(x), (x, *linear.parameters())
        gradients = torch.autograd.grad(expected, inputs, gradient)
        linear.__class__ = fused_linear.PackedLinear
        found = linear(x)
        torch.testing.assert_close(found, expected)
        for ours, theirs in zip(torch.autograd.grad(found, inputs, gradient), gradients):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            half = linear(x)
        assert half.dtype == torch.bfloat16
        for ours, theirs in zip(torch.autograd.grad(half, inputs, gradient.bfloat16()), gradients):
            assert ours.dtype == torch.float32 and (ours - theirs).norm() < 0.01 * theirs.norm()
        """)


@pytest.mark.timeout(300)
def test_padding_behind_the_last_sequence_changes_nothing():
    interpreted("""
        model, packed, _ = model_and_packed()

        def add_gradients(input_ids, attention_mask, labels, **options):
            batch = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
            whole = PackedBatch.of(batch, packed.config).filled_up(0)
            begin_packing(packed, whole)
            try:
                return packed(**whole.inputs(), **options)
            finally:
                end_packing(packed)

        add_gradients.zero_grad = packed.zero_grad
        add_gradients.parameters = packed.parameters
        for lengths in (([9, 2, 1, 5, 3], [2, 7, 1, 3, 4]), ([64] * 8, [64] * 7 + [63]), ([3], [30])):
            batch = batch_of(*lengths)
            sources, targets, labels, longest = PackedBatch.of(batch, packed.config).filled_up(0)
            assert len(sources.ids_N) % 512 == len(targets.ids_N) % 512 == 0 and longest == (64, 64)
            for tokens in (sources, targets):
                steps = tokens.starts.diff()
                assert tokens.starts[-1] == len(tokens.ids_N) and 0 <= steps.min() <= steps.max() <= 64
            # No queries without keys.
            assert not (targets.starts.diff()[sources.starts.diff() == 0]).any()
            assert_same(model, add_gradients, batch)
        """)


@pytest.mark.timeout(300)
def test_packed_batches_give_the_same_losses_and_gradients():
    interpreted("""
        model, packed, can = model_and_packed()
        assert can and packed.config._attn_implementation == PACKED
        rows = []
        packed.model.encoder.layers[0].feed_forward.register_forward_hook(lambda _, x, y: rows.append(y.shape[:-1]))
        assert_same(model, packed, batch_of([9, 2, 1, 5, 3], [2, 7, 1, 3, 4]))
        assert rows == [(1, 20)]
        # Padding on the left of sources, a source and a target without tokens, and two passes over the same exchanges.
        assert_same(model, packed, batch_of([9, 2, 1, 5, 3], [2, 7, 1, 3, 4], side="left"))
        assert_same(model, packed, batch_of([4, 2], [0, 3]))
        twice = {name: torch.cat([x, x]) for name, x in batch_of([4, 2], [2, 3]).items()}
        assert_same(model, packed, twice, rdrop_alpha=1.0)
        """)


@pytest.mark.timeout(300)
def test_everything_but_the_loss_is_as_without():
    interpreted("""
        model, packed, _ = model_and_packed()
        batch = batch_of([9, 2, 1], [2, 7, 1])
        assert_same(model, packed, batch)
        torch.testing.assert_close(packed(**batch).logits, model(**batch).logits)
        sources = {name: batch[name] for name in ("input_ids", "attention_mask")}
        replies = [each.eval().generate(**sources, max_new_tokens=5, num_beams=2) for each in (model, packed)]
        assert torch.equal(*replies)
        # After an error, too.
        unknown = {**batch, "input_ids": batch["input_ids"] + 99}
        try:
            packed(**unknown, return_logits=False)
            raise AssertionError("there is no such token")
        except IndexError:
            pass
        torch.testing.assert_close(packed(**batch).logits, model(**batch).logits)
        """)


@pytest.mark.timeout(300)
def test_what_cannot_be_packed_stays_as_it_is():
    interpreted("""
        for fields in ({"attention_dropout": 0.1}, {"self_attention": "strided", "attention_stride": 4}):
            _, model, can = model_and_packed(**fields)
            assert not can and model.config._attn_implementation == "sdpa"
        """)
