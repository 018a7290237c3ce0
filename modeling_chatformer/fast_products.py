"""
Products with weights on a CPU, in float32.

torch leaves them to MKL, which leaves AVX512 unused on processors that are not Intel's. oneDNN, a part of torch too, is
as exact, but prepares more for each product.
"""

import torch

HAS_ONEDNN = (
    torch.backends.cpu.get_cpu_capability() == "AVX512"
    and torch.backends.mkldnn.is_available()
    # The operator is a private one of torch's, and may go.
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
"""Whether oneDNN can be asked, and is worth it."""


def onednn_product(left_MK, right_NK, bias_N=None):
    """Return left @ right^T + bias, (M, N), of float32 tensors on the CPU; M may not be 0."""
    return torch.ops.mkldnn._linear_pointwise(left_MK, right_NK, bias_N, "none", [], "")
