"""The named sizes: the paper's base and big (Table 3), and smaller ones that a laptop trains."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from .configuration_chatformer import ChatformerConfig
from .declaring import did_you_mean

SIZES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "tiny": {"d_model": 128, "d_ff": 512, "num_heads": 4, "encoder_layers": 2, "decoder_layers": 2},
        "mini": {"d_model": 256, "d_ff": 512, "num_heads": 8, "encoder_layers": 2, "decoder_layers": 2},
        "small": {"d_model": 256, "d_ff": 1024, "num_heads": 8, "encoder_layers": 4, "decoder_layers": 4},
        "base": {"d_model": 512, "d_ff": 2048, "num_heads": 8, "encoder_layers": 6, "decoder_layers": 6},
        "big": {
            "d_model": 1024,
            "d_ff": 4096,
            "num_heads": 16,
            "encoder_layers": 6,
            "decoder_layers": 6,
            "dropout": 0.3,
        },
    }
)
"""Each name's widths and depths; what a size leaves out has ChatformerConfig's default."""


def sized_config(size: str, **changes: Any) -> ChatformerConfig:
    """
    Return the configuration of a named size with some fields changed.

    A change of `None` means "as the size has it". Raises a `ValueError` that lists the sizes for an unknown name.
    """
    if size not in SIZES:
        raise ValueError(f"There is no size {size!r}; the sizes are {', '.join(SIZES)}.{did_you_mean(size, SIZES)}")
    given = {name: value for name, value in changes.items() if value is not None}
    if "d_model" in given and "d_ff" not in given:
        # A changed width takes the paper's ratio along, not the inner width of a model of another width.
        given["d_ff"] = 4 * given["d_model"]
    return ChatformerConfig(**{**SIZES[size], **given})
