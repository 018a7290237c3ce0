"""
The gradients of a batch on a GPU by one launch, a CUDA graph, instead of a launch for each of a thousand kernels.

A graph repeats what was recorded once, with the same shapes and at the same addresses. So batches are packed, and
filled up to few shapes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from chatformer.fast_gpu_training import PackedBatch

AddGradients = Callable[[PackedBatch, Tensor], Tensor]
"""Computes the loss of a batch on the GPU, divided by a number of tokens, and adds its gradients to those there are."""

MOST_GRAPHS = 256
"""Graphs that are kept, each of some megabytes; batches of further shapes are computed without one."""


class Graph:
    """A recorded computation of a loss and its gradients, for batches of one shape."""

    def __init__(
        self,
        add_gradients: AddGradients,
        parameters: list[Any],
        gradients: list[Tensor],
        batch: PackedBatch,
        num_tokens: int,
        pool: Any,
    ):
        self.inputs = flat(batch, num_tokens).cuda()
        self.graph = torch.cuda.CUDAGraph()
        others = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        stream = torch.cuda.current_stream()
        try:
            with torch.cuda.graph(self.graph, pool=pool):
                self.loss = add_gradients(*unflat(self.inputs, batch))
                # So that the graphs can share all other memory.
                torch._foreach_copy_(gradients, [parameter.grad for parameter in parameters])
        finally:
            # Where memory runs out, torch stays on the stream that records.
            torch.cuda.set_stream(stream)
            for parameter, other in zip(parameters, others, strict=True):
                parameter.grad = other

    def replay(self, batch: PackedBatch, num_tokens: int) -> Tensor:
        """The loss of another batch, whose gradients overwrite the last ones."""
        self.inputs.copy_(flat(batch, num_tokens), non_blocking=True)
        self.graph.replay()
        return self.loss.clone()


class Graphs:
    """Records the computations of a model's gradients, and repeats them."""

    def __init__(self, model: Any, pad_token_id: int):
        self.model, self.pad_token_id = model, pad_token_id
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.gradients = [torch.empty_like(parameter) for parameter in self.parameters]
        self.forget()

    def forget(self) -> None:
        """Record anew: the model computes something else from now on, such as without dropout."""
        self.graphs: dict[tuple[int, ...], Graph | None] = {}
        # Tables of positions are replaced by longer ones, while graphs look into these.
        self.tables: list[Tensor] = []

    def add(
        self, batch: Mapping[str, Tensor], num_tokens: int, add_gradients: AddGradients, *, is_whole: bool
    ) -> Tensor:
        """
        What `add_gradients` does with a batch, which is given with padding and on the CPU, by a graph where it can.

        A batch that `is_whole` is all of a step, whose gradients are used before the next batch.
        """
        packed = PackedBatch.of(batch, self.model.config).filled_up(self.pad_token_id)
        shape = (*map(len, packed.tensors()), *packed.longest)
        if shape not in self.graphs and len(self.graphs) < MOST_GRAPHS:
            # At first without: libraries prepare themselves, and layers are compiled, which cannot be recorded.
            self.graphs[shape] = None
        elif shape in self.graphs and self.graphs[shape] is None:
            others = [other for other in self.graphs.values() if other is not None]
            pool = others[0].graph.pool() if others else None
            self.graphs[shape] = Graph(add_gradients, self.parameters, self.gradients, packed, num_tokens, pool)
            self.tables += [part.positions.table for part in (self.model.model.encoder, self.model.model.decoder)]
        graph = self.graphs.get(shape)
        if graph is None:
            return add_gradients(*unflat(flat(packed, num_tokens).cuda(non_blocking=True), packed))
        loss = graph.replay(packed, num_tokens)
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            if parameter.grad is None or parameter.grad is gradient:
                parameter.grad = gradient if is_whole else gradient.clone()
            else:
                parameter.grad += gradient
        return loss


def flat(batch: PackedBatch, num_tokens: int) -> Tensor:
    """A batch and a number in one tensor, from which copies to a GPU need not be waited for."""
    return torch.cat([*batch.tensors(), torch.tensor([num_tokens])]).pin_memory()


def unflat(tensor: Tensor, like: PackedBatch) -> tuple[PackedBatch, Tensor]:
    """The batch and the number in a tensor, for a batch of the same shape."""
    *tensors, num_tokens = tensor.split([*map(len, like.tensors()), 1])
    return like.with_tensors(tensors), num_tokens[0]
