"""What makes training on CPUs faster and changes neither the model nor, but for roundings, what it learns."""

import ctypes
import sys

import torch
from torch import nn

from chatformer.next_token import PLAIN_MODULES
from chatformer.products import HAS_ONEDNN, onednn_product


def keep_freed_memory() -> None:
    """
    Have this process keep the memory that tensors leave, for the next ones, instead of giving it back each time.

    glibc asks the system for every large tensor anew, and the system then fills it with zeros, page by page.
    """
    if sys.platform == "linux":
        try:
            mallopt = ctypes.CDLL(None).mallopt
        except AttributeError:  # Another C library.
            return
        m_trim_threshold, m_mmap_max = -1, -4
        mallopt(m_trim_threshold, 2**31 - 1)
        mallopt(m_mmap_max, 0)


def speed_up(model: nn.Module) -> None:
    """Replace the ways of a model's layers by faster ones; what is saved of it stays the same."""
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = CheapDropout
        # For each shape oneDNN prepares a kernel, which small matrices are not worth.
        elif type(module) is nn.Linear and min(module.weight.shape) >= 256 and HAS_ONEDNN:
            module.__class__ = OneDnnLinear


class CheapDropout(nn.Dropout):
    """Dropout that draws 16 bits for an element; torch draws 32, and tells each by itself whether it is kept."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not (self.training and self.p):
            return x
        bound = round(self.p * 2**16)
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        is_kept = words.view(torch.int16)[: x.numel()].view(x.shape) >= bound - 2**15
        return x * is_kept.to(x.dtype).mul_(2**16 / (2**16 - bound))


class OneDnnLinear(nn.Linear):
    """A linear layer whose float32 products are oneDNN's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # oneDNN knows no empty matrices.
        if x.dtype != torch.float32 or torch.is_autocast_enabled("cpu") or not x.numel():
            return super().forward(x)
        return OneDnnProduct.apply(x.flatten(0, -2), self.weight, self.bias).unflatten(0, x.shape[:-1])


class OneDnnProduct(torch.autograd.Function):
    """x W^T + b, of x, (N, I), W, (O, I), and b, (O,) or None, with oneDNN."""

    @staticmethod
    def forward(ctx, x_NI, weight_OI, bias_O):
        ctx.save_for_backward(x_NI, weight_OI)
        return onednn_product(x_NI, weight_OI, bias_O)

    @staticmethod
    def backward(ctx, gradient_NO):
        x_NI, weight_OI = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            onednn_product(gradient_NO, weight_OI.T) if needs_x else None,
            onednn_product(x_NI.T, gradient_NO.T).T if needs_weight else None,
            gradient_NO.sum(0) if needs_bias else None,
        )


# In evaluation they are what they replace.
PLAIN_MODULES.update((CheapDropout, OneDnnLinear))
