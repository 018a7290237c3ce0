"""
Products with weights on a CPU, in float32.

On AMD, torch's MKL does not use AVX512. oneDNN, which is a part of torch too, does. It is as exact, but needs more time
to prepare each product.
"""

import torch
from torch import Tensor

HAS_ONEDNN = (
    torch.backends.cpu.get_cpu_capability() == "AVX512"
    and torch.backends.mkldnn.is_available()
    # The operator is private to torch and may disappear.
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
"""True if oneDNN is available and worth its preparation."""


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
