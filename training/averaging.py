"""Averages of the weights over a training, which predict better than the last weights alone."""

from collections import deque
from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor


class MovingAverage:
    """
    Average a model's weights exponentially, the latest counting most.

    The decay at the n-th update is min(decay, (1 + n) / (10 + n)), counted from 0, so that the first weights are soon
    forgotten; the very first update forgets the random ones altogether. To be made of the model as it is trained: on
    its device, and sharded if it is.
    """

    def __init__(self, model: torch.nn.Module, decay: float):
        self.decay = decay
        self.num_updates = 0
        # Tied weights have one name here.
        self.weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: torch.nn.Module) -> None:
        """Take the model's weights into the average."""
        n = self.num_updates
        decay = min(self.decay, (1 + n) / (10 + n)) if n else 0.0
        torch._foreach_lerp_(list(self.weights.values()), list(model.parameters()), 1 - decay)
        self.num_updates += 1

    @torch.no_grad()
    def copy_to(self, model: torch.nn.Module) -> None:
        """Give the average to another model of the same kind. Where weights are sharded, all processes must call it."""
        for name, parameter in model.named_parameters():
            write(parameter, whole(self.weights[name]))

    def state_dict(self) -> dict[str, Any]:
        """Return what is to be saved. Where weights are sharded, all processes must call it."""
        weights = {name: whole(weight) for name, weight in self.weights.items()}
        return {"num_updates": self.num_updates, "weights": weights}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_updates = state["num_updates"]
        for name, weight in self.weights.items():
            write(weight, state["weights"][name])


class CheckpointAverage:
    """
    Average the weights of a model's last checkpoints (Section 6.1 of "Attention Is All You Need").

    The checkpoints are kept whole and in the computer's memory, which is larger than a GPU's.
    """

    def __init__(self, num_checkpoints: int):
        self.checkpoints: deque[dict[str, torch.Tensor]] = deque(maxlen=num_checkpoints)

    def add(self, model: torch.nn.Module) -> None:
        """Keep the model's weights, and no more the oldest. Where weights are sharded, all processes must call it."""
        self.checkpoints.append(
            {name: whole(parameter).to("cpu", copy=True) for name, parameter in model.named_parameters()}
        )

    @torch.no_grad()
    def copy_to(self, model: torch.nn.Module) -> None:
        """Give the average to another model of the same kind. Where weights are sharded, all processes must call it."""
        for name, parameter in model.named_parameters():
            # From the oldest on: another order would give other last bits.
            total = torch.zeros_like(self.checkpoints[0][name], dtype=torch.float32)
            for checkpoint in self.checkpoints:
                total += checkpoint[name]
            write(parameter, total / len(self.checkpoints))

    def state_dict(self) -> dict[str, Any]:
        return {"checkpoints": list(self.checkpoints)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.checkpoints.clear()
        self.checkpoints.extend(state["checkpoints"])


def whole(weight: torch.Tensor) -> torch.Tensor:
    """Return a weight with all its shards, which all processes must ask for together."""
    weight = weight.detach()
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def write(weight: torch.Tensor, value: torch.Tensor) -> None:
    """Overwrite a weight, or this process's shard of it, with a whole value."""
    if isinstance(weight, DTensor):
        # Everyone has the whole value, so nobody needs to send any of it.
        value = distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements, src_data_rank=None)
    weight.copy_(value)


@torch.no_grad()
def copy_weights(model: torch.nn.Module, other: torch.nn.Module) -> None:
    """Give a model's weights to another of the same kind. Where they are sharded, all processes must call it."""
    for weight, copy in zip(model.parameters(), other.parameters(), strict=True):
        write(copy, whole(weight))
