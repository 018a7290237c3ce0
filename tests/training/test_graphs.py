"""Gradients by CUDA graphs: on a GPU, the same as without."""

import copy

import pytest
import torch

from chatformer import ChatformerConfig, ChatformerForConditionalGeneration
from chatformer.fast_gpu_training import begin_packing, end_packing, pack_batches
from chatformer.training.graphs import Graphs

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def make_model(dropout):
    torch.manual_seed(0)
    config = ChatformerConfig(
        **{"vocab_size": 100, "d_model": 64, "num_heads": 4, "encoder_layers": 2, "decoder_layers": 2, "d_ff": 128},
        **{"dropout": dropout, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
    )
    return ChatformerForConditionalGeneration(config).train().cuda()


def batch_of(lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    is_token = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.randint(3, 100, is_token.shape, generator=generator)
    return {
        "input_ids": ids.masked_fill(~is_token, 0),
        "attention_mask": is_token.long(),
        "labels": ids.flip(0).masked_fill(~is_token, -100),
    }


def losses_and_gradients(model, add_gradients, batches):
    """What each batch gives, and the gradients of all, in one vector: those of biases of keys are rounding alone."""
    losses = [float(add_gradients(batch)) for batch in batches]
    return losses, torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def adding_to(packed):
    """What adds the gradients of a packed batch to a model's."""

    def add_packed(batch, num_tokens):
        begin_packing(packed, batch)
        with torch.autocast("cuda", torch.bfloat16):
            loss = packed(**batch.inputs(), num_items_in_batch=num_tokens, return_logits=False).loss
        loss.backward()
        end_packing(packed)
        return loss.detach()

    return add_packed


@pytest.mark.parametrize("longest", [20, 90])
def test_graphs_add_the_gradients_of_a_padded_model(longest):
    model = make_model(dropout=0.0)
    packed = copy.deepcopy(model)
    assert pack_batches(packed)

    def add_padded(batch):
        batch = {name: tensor.cuda() for name, tensor in batch.items()}
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(**batch, num_items_in_batch=50, return_logits=False).loss
        loss.backward()
        return loss.detach()

    graphs = Graphs(packed, pad_token_id=0)
    # Two shapes, each first without a graph, then recorded, then repeated, and a third that comes once.
    lengths = [[longest, 3, 9], [longest] * 40, [longest - 1, 5, 2]] * 3 + [[longest] * 200]
    batches = [batch_of(each, seed) for seed, each in enumerate(lengths)]
    expected = losses_and_gradients(model, add_padded, batches)
    found = losses_and_gradients(
        packed, lambda batch: graphs.add(batch, 50, adding_to(packed), is_whole=False), batches
    )
    assert sum(graph is not None for graph in graphs.graphs.values()) == 2 and len(graphs.graphs) == 3
    assert found[0] == pytest.approx(expected[0], rel=2e-3)
    assert (found[1] - expected[1]).norm() < 0.02 * expected[1].norm()
    # The gradients of one batch alone.
    packed.zero_grad(), model.zero_grad()
    _, expected = losses_and_gradients(model, add_padded, batches[:1])
    _, found = losses_and_gradients(
        packed, lambda batch: graphs.add(batch, 50, adding_to(packed), is_whole=True), batches[:1]
    )
    assert (found - expected).norm() < 0.02 * expected.norm()


def test_a_graph_drops_other_elements_each_time_until_it_is_forgotten():
    packed = make_model(dropout=0.5)
    assert pack_batches(packed)

    graphs, batch = Graphs(packed, pad_token_id=0), batch_of([9, 4, 7], seed=0)
    losses = [float(graphs.add(batch, 20, adding_to(packed), is_whole=True)) for _ in range(5)]
    assert len(set(losses)) == 5
    # The same chance gives the same numbers.
    repeated = []
    for _ in range(2):
        torch.cuda.manual_seed(3)
        repeated.append(float(graphs.add(batch, 20, adding_to(packed), is_whole=True)))
    assert repeated[0] == repeated[1]
    for module in packed.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    graphs.forget()
    assert len({float(graphs.add(batch, 20, adding_to(packed), is_whole=True)) for _ in range(4)}) == 1
