"""The architectures, and named sizes: the paper's base and big (Table 3), and smaller ones that a laptop trains."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from .configuration_bahdanau import BahdanauConfig
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

RECURRENT_SIZES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "tiny": {"d_model": 128},
        "mini": {"d_model": 256},
        "small": {"d_model": 384},
        "base": {"d_model": 512},
        "big": {"d_model": 1000, "d_embedding": 620, "dropout": 0.3},
    }
)
"""The same names for the recurrent architectures; big has the widths of Bahdanau et al. (Appendix A.2.3)."""

ARCHITECTURES: Mapping[str, tuple[type[ChatformerConfig] | type[BahdanauConfig], Mapping[str, Any]]] = MappingProxyType(
    {
        "transformer": (ChatformerConfig, {}),
        "bahdanau": (BahdanauConfig, {}),
        "seq2seq": (BahdanauConfig, {"attention": False}),
    }
)
"""Each architecture's configuration, and the fields that distinguish it."""


def sizes_of(architecture: str) -> Mapping[str, Mapping[str, Any]]:
    """The named sizes of an architecture."""
    return SIZES if architecture == "transformer" else RECURRENT_SIZES


def sized_config(size: str, architecture: str = "transformer", **changes: Any) -> ChatformerConfig | BahdanauConfig:
    """
    Return the configuration of a named size of an architecture with some fields changed.

    A change of `None` means "as the size has it". Raises a `ValueError` that lists the sizes for an unknown name.
    """
    config_class, own_fields = ARCHITECTURES[architecture]
    sizes = sizes_of(architecture)
    if size not in sizes:
        raise ValueError(f"There is no size {size!r}; the sizes are {', '.join(sizes)}.{did_you_mean(size, sizes)}")
    given = {name: value for name, value in changes.items() if value is not None}
    fields = dict(sizes[size])
    if "d_model" in given:
        # A changed width takes along what the papers derive from it, not the widths of a model of another width.
        fields.pop("d_ff", None)
        fields.pop("d_embedding", None)
    return config_class(**{**fields, **own_fields, **given})
