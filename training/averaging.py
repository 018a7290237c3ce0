"""Averages of a training's weights, which predict better than the last weights alone."""

from collections import deque
from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from chatformer.configuration.training import OptimizationSettings


def full_weight(weight: torch.Tensor) -> torch.Tensor:
    """A weight with all its shards. Every rank must call this at the same time."""
    weight = weight.detach()
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def overwrite(weight: torch.Tensor, value: torch.Tensor) -> None:
    """Overwrite a weight, or this process's shard of it, with a full value."""
    if isinstance(weight, DTensor):
        # Every rank has the full value: nothing needs to be sent.
        value = distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements, src_data_rank=None)
    weight.copy_(value)


@torch.no_grad()
def copy_weights(model: torch.nn.Module, other: torch.nn.Module) -> None:
    """Copy a model's weights into another model of the same shape. Every rank must call this: they may be sharded."""
    for weight, copy in zip(model.parameters(), other.parameters(), strict=True):
        overwrite(copy, full_weight(weight))


class MovingAverage:
    """
    An exponential moving average of a model's weights: the latest weights count most.

    The decay of update n, counted from 0, is min(decay, (1 + n) / (10 + n)), so that early weights soon count little;
    update 0 replaces the random weights. `model` is the model in training, on its device and with its shards.
    """

    def __init__(self, model: torch.nn.Module, decay: float):
        self.decay = decay
        self.num_updates = 0
        # Tied weights have one name here.
        self.weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: torch.nn.Module) -> None:
        """Add the model's weights to the average."""
        n = self.num_updates
        decay = min(self.decay, (1 + n) / (10 + n)) if n else 0.0
        torch._foreach_lerp_(list(self.weights.values()), list(model.parameters()), 1 - decay)
        self.num_updates += 1

    @torch.no_grad()
    def copy_to(self, model: torch.nn.Module) -> None:
        """Copy the average into another model of the same shape. Every rank must call this: weights may be sharded."""
        for name, parameter in model.named_parameters():
            overwrite(parameter, full_weight(self.weights[name]))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint saves. Every rank must call this: weights may be sharded."""
        weights = {name: full_weight(weight) for name, weight in self.weights.items()}
        return {"num_updates": self.num_updates, "weights": weights}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_updates = state["num_updates"]
        for name, weight in self.weights.items():
            overwrite(weight, state["weights"][name])


class CheckpointAverage:
    """
    The mean of the weights of a model's last checkpoints (Section 6.1 of "Attention Is All You Need").

    Full weights are kept, in the computer's memory, which is larger than a GPU's.
    """

    def __init__(self, num_checkpoints: int):
        self.checkpoints: deque[dict[str, torch.Tensor]] = deque(maxlen=num_checkpoints)

    def add(self, model: torch.nn.Module) -> None:
        """Keep the model's weights, and drop the oldest. Every rank must call this: weights may be sharded."""
        self.checkpoints.append(
            {name: full_weight(parameter).to("cpu", copy=True) for name, parameter in model.named_parameters()}
        )

    @torch.no_grad()
    def copy_to(self, model: torch.nn.Module) -> None:
        """Copy the average into another model of the same shape. Every rank must call this: weights may be sharded."""
        for name, parameter in model.named_parameters():
            # The oldest first: the order of a sum decides its last bits.
            total = torch.zeros_like(self.checkpoints[0][name], dtype=torch.float32)
            for checkpoint in self.checkpoints:
                total += checkpoint[name]
            overwrite(parameter, total / len(self.checkpoints))

    def state_dict(self) -> dict[str, Any]:
        return {"checkpoints": list(self.checkpoints)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.checkpoints.clear()
        self.checkpoints.extend(state["checkpoints"])


class Averages:
    """The average that settings ask for, if any: it is published instead of the last weights."""

    def __init__(self, model: torch.nn.Module, plan: OptimizationSettings):
        self.moving = MovingAverage(model, plan.ema_decay) if plan.ema_decay else None
        self.checkpoints = CheckpointAverage(plan.average_checkpoints) if plan.average_checkpoints else None

    def states(self) -> list[MovingAverage | CheckpointAverage]:
        """What a checkpoint saves."""
        return [average for average in (self.moving, self.checkpoints) if average is not None]

    def add(self, model: torch.nn.Module, *, saves: bool) -> None:
        """Add the weights after a step; `saves` is true if a checkpoint follows."""
        if self.moving is not None:
            self.moving.update(model)
        if self.checkpoints is not None and saves:
            self.checkpoints.add(model)

    def copy_to(self, published: torch.nn.Module, model: torch.nn.Module) -> None:
        """Copy the average, or the weights of `model` if there is none yet, into the model to publish."""
        if self.moving is not None:
            self.moving.copy_to(published)
        elif self.checkpoints is not None and self.checkpoints.checkpoints:
            self.checkpoints.copy_to(published)
        else:
            copy_weights(model, published)
