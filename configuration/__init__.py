"""
What it is: the configuration of a model, and the settings of every command. In reading order:

    configuration_seq2seq     what the configurations of all architectures share
    configuration_chatformer  the configuration of a Transformer, in the paper's symbols
    configuration_bahdanau    the configuration of a recurrent model, in its paper's symbols
    configuration_ensemble    the configuration of several Transformers as one model
    declaring                 bounds next to the defaults, their check, the names of flags
    command_line              from the flags of a command line to its settings
    sizes                     the named sizes
    data                      which conversations are read, and how text becomes tokens
    model                     what is trained
    training                  how it is trained, and what a run writes
    recipes                   files that give some settings: defaults < recipe < flags
    replies                   which model replies, and how: `chat`, `generate`
    evaluation                `evaluate`, `doctor`
    pictures                  `plot`
    sharing                   `import`, `export`, `push`, `space`

Settings import neither torch nor transformers, so that `--help` is quick; the names below load them when first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .configuration_bahdanau import BahdanauConfig
    from .configuration_chatformer import ChatformerConfig
    from .configuration_ensemble import EnsembleConfig
    from .sizes import SIZES, sized_config

__all__ = ["SIZES", "BahdanauConfig", "ChatformerConfig", "EnsembleConfig", "sized_config"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        # The sizes import the other configurations as well.
        home = "configuration_ensemble" if name == "EnsembleConfig" else "sizes"
        return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
