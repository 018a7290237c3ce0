"""
Products with weights on a CPU, in float32.

On AMD, torch's MKL does not use AVX512. oneDNN, which is a part of torch too, does. It is as exact, but needs more time
to prepare each product.
"""

from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

HAS_ONEDNN = (
    torch.backends.cpu.get_cpu_capability() == "AVX512"
    and torch.backends.mkldnn.is_available()
    # The operators are private to torch and may disappear.
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
)
"""True if oneDNN is available and worth its preparation."""

ROWS_OF_ITS_LAYOUT = 32
"""The number of rows that oneDNN chooses its layout for: it takes the same one for all numbers above 1."""


def round_number(rows: int) -> int:
    """
    The next of few numbers of rows, at most a 32nd larger from a thousand on.

    oneDNN compiles a kernel for each shape, in the time of a small product, and keeps the last thousand of them.
    """
    step = max(16, 1 << max(0, rows.bit_length() - 6))
    return -(-rows // step) * step


def onednn_product(left_MK: Tensor, right_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """left @ right^T + bias, (M, N), of float32 tensors on the CPU; M must not be 0."""
    return torch.ops.mkldnn._linear_pointwise(left_MK, right_NK, bias_N, "none", [], "")


class PackedWeight(NamedTuple):
    """A weight in oneDNN's own layout, and how to tell whether it still is that weight."""

    weight: Tensor
    probe_1K: Tensor
    product_1N: Tensor

    @classmethod
    def of(cls, weight_NK: Tensor) -> "PackedWeight":
        # It has no structure that a change of the weight could have too.
        generator = torch.Generator("cpu").manual_seed(0)
        probe_1K = torch.randn(1, weight_NK.shape[1], generator=generator, dtype=weight_NK.dtype, device="cpu")
        packed = torch.ops.mkldnn._reorder_linear_weight(weight_NK, ROWS_OF_ITS_LAYOUT)
        return cls(packed, probe_1K, onednn_product(probe_1K, weight_NK))

    def is_of(self, weight_NK: Tensor) -> bool:
        """
        True unless a product with the weight shows that it has changed.

        torch does not count all changes: not those of `weight.data`. What may go unseen here is a change of a few
        elements alone that is as small as rounding.
        """
        shape = self.product_1N.shape[1], self.probe_1K.shape[1]
        return weight_NK.shape == shape and torch.equal(onednn_product(self.probe_1K, weight_NK), self.product_1N)


PACKED_WEIGHTS: WeakKeyDictionary[nn.Linear, PackedWeight] = WeakKeyDictionary()


def packed_weight(linear: nn.Linear) -> Tensor:
    """
    The right side of `onednn_product` in oneDNN's own layout, which makes products of few rows up to twice as fast.

    It is a copy, kept as long as the layer and made again when the weight has changed.
    """
    weight_NK = linear.weight.detach()
    packed = PACKED_WEIGHTS.get(linear)
    if packed is None or not packed.is_of(weight_NK):
        PACKED_WEIGHTS[linear] = packed = PackedWeight.of(weight_NK)
    return packed.weight
