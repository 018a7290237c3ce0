import subprocess
import sys

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from chatformer import ChatformerForConditionalGeneration, sized_config
from chatformer.training.averaging import CheckpointAverage, MovingAverage, copy_weights


@pytest.fixture
def make_model():
    """Return a function that makes a model of other random weights each time."""
    config = sized_config("tiny", d_model=16, d_ff=24, num_heads=2, vocab_size=50)
    return lambda: ChatformerForConditionalGeneration(config)


def change(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))


def weights_of(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, weight in one.items():
        assert torch.equal(weight, other[name]), name


def saved_and_loaded(state, path):
    torch.save(state, path)
    # As accelerate loads it.
    return torch.load(path, map_location="cpu", weights_only=True)


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_a_moving_average_is_the_one_of_torch(make_model, decay):
    def update(averaged, current, num_averaged):
        n = int(num_averaged)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    model = make_model()
    expected = AveragedModel(model, multi_avg_fn=torch.no_grad()(update))
    average = MovingAverage(model, decay)
    published = make_model()
    average.copy_to(published)
    assert_equal(weights_of(published), weights_of(model))
    for _ in range(20):
        change(model)
        expected.update_parameters(model)
        average.update(model)
        average.copy_to(published)
        assert_equal(weights_of(published), weights_of(expected.module))
    assert not torch.equal(published.lm_head.weight, model.lm_head.weight)


def test_a_moving_average_of_equal_weights_is_these_weights(make_model):
    model, published = make_model(), make_model()
    average = MovingAverage(make_model(), 0.99)
    for _ in range(5):
        average.update(model)
    average.copy_to(published)
    assert_equal(weights_of(published), weights_of(model))


def test_the_average_of_checkpoints_is_the_mean_of_the_last(make_model):
    model, published = make_model(), make_model()
    average, seen = CheckpointAverage(3), []
    for _ in range(5):
        change(model)
        average.add(model)
        seen.append(weights_of(model))
        average.copy_to(published)
        last = seen[-3:]
        for name, weight in published.named_parameters():
            exact = sum(weights[name].double() for weights in last) / len(last)
            torch.testing.assert_close(weight.double(), exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("average_of", [lambda model: MovingAverage(model, 0.9), lambda model: CheckpointAverage(3)])
def test_an_average_that_is_loaded_goes_on_as_if_never_saved(make_model, tmp_path, average_of):
    def take_in(average, model):
        average.update(model) if isinstance(average, MovingAverage) else average.add(model)

    model, published, published_too = make_model(), make_model(), make_model()
    average = average_of(model)
    for _ in range(4):
        change(model)
        take_in(average, model)
    restored = average_of(make_model())
    restored.load_state_dict(saved_and_loaded(average.state_dict(), tmp_path / "state"))
    for _ in range(3):
        average.copy_to(published)
        restored.copy_to(published_too)
        assert_equal(weights_of(published), weights_of(published_too))
        change(model)
        take_in(average, model)
        take_in(restored, model)


def test_averages_keep_tied_weights_once_and_buffers_not_at_all(make_model):
    model, published = make_model(), make_model()
    published.model.encoder.positions.table.fill_(5)
    moving, of_checkpoints = MovingAverage(model, 0.9), CheckpointAverage(2)
    change(model)
    moving.update(model)
    of_checkpoints.add(model)
    for average in (moving, of_checkpoints):
        average.copy_to(published)
        assert published.lm_head.weight is published.model.shared.weight
        assert (published.model.encoder.positions.table == 5).all()
    num_weights = sum(parameter.numel() for parameter in model.parameters())
    for kept in (moving.state_dict()["weights"], *of_checkpoints.state_dict()["checkpoints"]):
        assert sum(weight.numel() for weight in kept.values()) == num_weights


def test_an_average_does_not_follow_the_model_afterwards(make_model):
    model, published = make_model(), make_model()
    moving, of_checkpoints = MovingAverage(model, 0.9), CheckpointAverage(2)
    moving.update(model)
    of_checkpoints.add(model)
    before = weights_of(model)
    change(model)
    for average in (moving, of_checkpoints):
        average.copy_to(published)
        assert_equal(weights_of(published), before)
        assert not any(parameter.grad_fn for parameter in published.parameters())
        assert all(parameter.requires_grad for parameter in published.parameters())


def test_weights_that_are_copied_are_the_same_and_do_not_follow(make_model):
    model, published = make_model(), make_model()
    copy_weights(model, published)
    before = weights_of(model)
    change(model)
    assert_equal(weights_of(published), before)


IN_TWO_PROCESSES = """
import copy, sys
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor
from chatformer.training.averaging import CheckpointAverage, MovingAverage, copy_weights

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
torch.manual_seed(0)
whole = nn.Sequential(nn.Linear(7, 5), nn.LayerNorm(5), nn.Linear(5, 3, bias=False))
sharded, published, other = (copy.deepcopy(whole) for _ in range(3))
fully_shard(sharded, mesh=torch.distributed.init_device_mesh("cpu", (2,)))
fully_shard(other, mesh=torch.distributed.init_device_mesh("cpu", (2,)))

def train():
    with torch.no_grad():
        for parameter, shard in zip(whole.parameters(), sharded.parameters(), strict=True):
            parameter.add_(torch.randn_like(parameter))
            shard.copy_(distribute_tensor(parameter.detach(), shard.device_mesh, shard.placements))

def take_in(average, model):
    average.update(model) if isinstance(average, MovingAverage) else average.add(model)

for make in (lambda model: MovingAverage(model, 0.9), lambda model: CheckpointAverage(2)):
    expected, average = make(whole), make(sharded)
    for step in range(6):
        train()
        take_in(expected, whole)
        take_in(average, sharded)
        if step == 3:
            # Only the main process saves, and all load what it saved.
            state = average.state_dict()
            if rank == 0:
                torch.save(state, f"{folder}/state")
            torch.distributed.barrier()
            average = make(sharded)
            average.load_state_dict(torch.load(f"{folder}/state", map_location="cpu", weights_only=True))
            torch.distributed.barrier()
    wanted = copy.deepcopy(whole)
    expected.copy_to(wanted)
    average.copy_to(published)
    average.copy_to(other)
    for parameter, found, shard in zip(*(m.parameters() for m in (wanted, published, other)), strict=True):
        assert torch.equal(parameter, found) and torch.equal(parameter, shard.full_tensor())
        assert shard.to_local().numel() < parameter.numel()
    copy_weights(sharded, published)
    for parameter, found in zip(whole.parameters(), published.parameters(), strict=True):
        assert torch.equal(parameter, found)
torch.distributed.destroy_process_group()
"""


def test_averages_of_weights_that_two_processes_share_are_the_same(tmp_path, environment):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", IN_TWO_PROCESSES, str(rank), str(tmp_path)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
