import math

import pytest
import torch

from chatformer import ChatformerConfig, ChatformerForConditionalGeneration
from chatformer.loss import IGNORED
from chatformer.storage.reading import read_json_lines
from chatformer.training import gradients
from chatformer.training.gradients import training_loss
from chatformer.training.run import Run

VOCAB_SIZE = 23


def make_model(dropout=0.0):
    torch.manual_seed(0)
    shape = {"d_model": 16, "d_ff": 24, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1}
    model = ChatformerForConditionalGeneration(ChatformerConfig(vocab_size=VOCAB_SIZE, dropout=dropout, **shape))
    with torch.no_grad():
        # The first predictions are all alike, which would hide mistakes.
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.train()


@pytest.fixture
def batch():
    chance = torch.Generator().manual_seed(1)
    input_ids = torch.randint(6, VOCAB_SIZE, (4, 5), generator=chance)
    labels = torch.randint(6, VOCAB_SIZE, (4, 6), generator=chance)
    attention_mask = torch.ones_like(input_ids)
    for row, (source, target) in enumerate([(5, 6), (3, 2), (4, 1), (1, 4)]):
        attention_mask[row, source:], input_ids[row, source:], labels[row, target:] = 0, 0, IGNORED
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def gradients_of(model, loss):
    model.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def by_hand(first, second, labels, label_smoothing, alpha):
    """Return half of Equation 4, token by token, of two (B, T, V) of logits, summed over the tokens."""
    total = 0
    for row in range(labels.shape[0]):
        for place in range(labels.shape[1]):
            if (label := labels[row, place].item()) == IGNORED:
                continue
            p, q = (logits[row, place].exp() / logits[row, place].exp().sum() for logits in (first, second))
            for x in (p, q):
                wanted = [label_smoothing / VOCAB_SIZE] * VOCAB_SIZE
                wanted[label] += 1 - label_smoothing
                total = total - sum(share * x[v].log() for v, share in enumerate(wanted)) / 2
            kl_pq = sum(p[v] * (p[v] / q[v]).log() for v in range(VOCAB_SIZE))
            kl_qp = sum(q[v] * (q[v] / p[v]).log() for v in range(VOCAB_SIZE))
            total = total + alpha / 2 * (kl_pq + kl_qp) / 2
    return total


def test_without_rdrop_it_is_the_models_own_loss(batch):
    model = make_model(dropout=0.3)
    torch.manual_seed(5)
    expected = model(**batch, num_items_in_batch=17, label_smoothing=0.1).loss
    torch.manual_seed(5)
    found = training_loss(model, batch, num_items_in_batch=17, label_smoothing=0.1, rdrop_alpha=0.0)
    assert torch.equal(found, expected)
    torch.testing.assert_close(gradients_of(model, found), gradients_of(model, expected))


@pytest.mark.parametrize(("label_smoothing", "alpha"), [(0.0, 1.0), (0.1, 5.0), (0.1, 1e-9)])
def test_rdrop_is_half_of_equation_4(batch, label_smoothing, alpha):
    model = make_model(dropout=0.3).double()
    seen = []
    hook = model.model.register_forward_hook(lambda *call: seen.append(call[-1].last_hidden_state))
    found = training_loss(model, batch, num_items_in_batch=19, label_smoothing=label_smoothing, rdrop_alpha=alpha)
    hook.remove()
    # Distributed training counts on one forward for each backward.
    (hidden,) = seen
    hidden.retain_grad()
    found_gradients = gradients_of(model, found)
    assert all(part[batch["labels"] != IGNORED].abs().sum() > 0 for part in hidden.grad.chunk(2))

    # The same dropout over again.
    model = make_model(dropout=0.3).double()
    twice = {name: torch.cat([tensor, tensor]) for name, tensor in batch.items()}
    logits = model(**twice).logits
    assert (logits[:4] - logits[4:]).abs().max() > 0.1
    expected = by_hand(logits[:4], logits[4:], batch["labels"], label_smoothing, alpha) / 19
    # The loss is in float32 whatever the model is in.
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    for one, other in zip(found_gradients, gradients_of(model, expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_without_dropout_rdrop_changes_nothing_but_roundings(batch):
    model = make_model()
    losses = [
        training_loss(model, batch, num_items_in_batch=13, label_smoothing=0.1, rdrop_alpha=alpha) for alpha in (0, 5)
    ]
    torch.testing.assert_close(losses[0], losses[1])
    for one, other in zip(*(gradients_of(model, loss) for loss in losses), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_micro_batches_give_the_gradient_of_the_whole_batch(batch):
    model = make_model()
    masks = (torch.rand(2, 16, generator=torch.Generator().manual_seed(3)) > 0.4).float()
    # One and the same dropout for every exchange, but another one each time that it is read.
    model.model.decoder.layers[-1].feed_forward_norm.register_forward_hook(
        lambda module, inputs, output: output * masks.repeat_interleave(len(output) // 2, dim=0).unsqueeze(1)
    )

    def loss_of(rows, alpha=3.0):
        part = {name: tensor[rows] for name, tensor in batch.items()}
        return training_loss(model, part, num_items_in_batch=13, label_smoothing=0.1, rdrop_alpha=alpha)

    whole = loss_of([0, 1, 2, 3])
    # A disagreement that would be missed.
    assert whole > loss_of([0, 1, 2, 3], alpha=1e-9) + 0.1
    parts = sum(loss_of(rows) for rows in ([0], [1, 3], [2]))
    torch.testing.assert_close(parts, whole)
    for one, other in zip(gradients_of(model, whole), gradients_of(model, parts), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_batch_without_targets_has_no_loss_but_all_gradients(batch):
    model = make_model(dropout=0.3)
    batch["labels"].fill_(IGNORED)
    loss = training_loss(model, batch, num_items_in_batch=13, label_smoothing=0.1, rdrop_alpha=5.0)
    assert loss.item() == 0
    assert not any(gradient.any() for gradient in gradients_of(model, loss))


def test_the_two_predictions_are_compared_in_single_precision_under_autocast(batch):
    def loss_under_autocast(alpha):
        model = make_model(dropout=0.3)
        with torch.autocast("cpu", torch.bfloat16):
            hook = model.lm_head.register_forward_hook(lambda *call: seen.append(call[-1].detach().clone()))
            loss = training_loss(model, batch, num_items_in_batch=13, label_smoothing=0.1, rdrop_alpha=alpha)
            hook.remove()
        return loss

    seen = []
    loss = loss_under_autocast(5.0)
    assert loss.dtype == torch.float32 and seen[0].dtype == torch.bfloat16
    # The logits of the tokens that count, in a row.
    logits, labels = seen[0].double(), batch["labels"][batch["labels"] != -100]
    assert logits.shape[1] == len(labels) == 13
    expected = by_hand(*logits.unsqueeze(1), labels.unsqueeze(0), 0.1, 5.0) / 13
    assert math.isclose(loss.item(), expected.item(), rel_tol=1e-5)


@pytest.fixture(scope="module")
def plan():
    return {"max_steps": 20, "eval_steps": 20, "dropout": 0}


def losses_of(folder):
    return [line["loss"] for line in read_json_lines(folder / "training_log.jsonl") if "loss" in line]


@pytest.fixture(scope="module")
def losses(plan, flags, train, tmp_path_factory):
    """Return the losses of a run with enough memory."""
    folder = tmp_path_factory.mktemp("enough") / "run"
    assert train(flags(folder, **plan)) == 0
    return losses_of(folder)


def test_out_of_memory_halves_the_micro_batch_and_changes_nothing_else(
    plan, losses, flags, train, tmp_path, monkeypatch, capsys
):
    sizes = []

    def limited(model, batch, **options):
        if len(batch["labels"]) > 6:
            raise torch.OutOfMemoryError("out of memory")
        sizes.append(len(batch["labels"]))
        return training_loss(model, batch, **options)

    monkeypatch.setattr(gradients, "training_loss", limited)
    assert train(flags(tmp_path / "little", **plan)) == 0
    assert "Out of memory at step 1: going on with" in capsys.readouterr().err
    assert max(sizes) in (4, 5, 6)
    assert losses_of(tmp_path / "little") == pytest.approx(losses, rel=2e-5)


def test_out_of_memory_between_micro_batches_counts_none_of_them_twice(
    plan, losses, flags, train, tmp_path, replace_loss_of_run, capsys
):
    calls = []

    def limited_once(model, batch, **options):
        calls.append(batch)
        # The second of four.
        if len(calls) == 2:
            raise torch.OutOfMemoryError("out of memory")
        return training_loss(model, batch, **options)

    replace_loss_of_run(limited_once)
    assert train(flags(tmp_path / "run", **plan, gradient_accumulation_steps=4)) == 0
    assert "Out of memory at step 1: going on with 8 micro-batches" in capsys.readouterr().err
    assert losses_of(tmp_path / "run") == pytest.approx(losses, rel=2e-5)


def test_where_memory_runs_out_graphs_are_given_up_first(plan, losses, flags, train, tmp_path, monkeypatch, capsys):
    used = []

    class NoMemory:
        def __init__(self, fails):
            self.fails = fails

        def add(self, batch, num_tokens, add_gradients, *, is_whole):
            used.append(is_whole)
            # As a driver says it, which is not torch's error, and after some gradients have been added.
            if len(used) >= self.fails:
                raise RuntimeError("CUDA error: out of memory")
            return run.gradients._add_gradients(batch, num_tokens)

    def go(its_run, folder):
        nonlocal run
        run = its_run
        run.gradients._graphs = NoMemory(fails=4)
        return run_to_its_end(run, folder)

    run, run_to_its_end = None, Run.go
    monkeypatch.setattr(Run, "go", go)
    assert train(flags(tmp_path / "run", **plan, gradient_accumulation_steps=2)) == 0
    assert used == [False] * 4
    told = capsys.readouterr().err
    assert "Out of memory at step 2: going on without CUDA graphs." in told and "micro-batches a step" not in told
    assert losses_of(tmp_path / "run") == pytest.approx(losses, rel=2e-5)
    # What a checkpoint keeps.
    assert run.progress.without_graphs
    run.gradients._graphs = NoMemory(fails=0)
    assert run.gradients.graphs is None


def test_too_little_memory_for_one_exchange_is_told(plan, flags, train, tmp_path, monkeypatch, capsys):
    def never(*_, **__):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(gradients, "training_loss", never)
    assert train(flags(tmp_path / "run", **plan)) == 2
    assert "even with one exchange at a time" in capsys.readouterr().err
