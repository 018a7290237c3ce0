"""
The state of a recurrent decoder as transformers' `generate()` keeps it: in a cache.

Letters after a tensor's name, or in a docstring, are its axes: B batch, T target tokens, D state.
"""

from typing import Any

from torch import Tensor
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, EncoderDecoderCache


class RecurrentState(CacheLayerMixin):
    """The cache of a GRU: its newest state, (B, D), which replaces the one before, and the number of tokens read."""

    def __init__(self) -> None:
        super().__init__()
        self.cumulative_length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keep the state after `value_states`, the states of new tokens, (B, T, D)."""
        self.lazy_initialization(key_states, value_states)
        self.keys = self.values = key_states
        self.cumulative_length += value_states.shape[1]
        return key_states, value_states

    def get_seq_length(self) -> int:
        return self.cumulative_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cumulative_length + query_length, 0

    def get_max_length(self) -> int:
        return -1

    # Its name in earlier versions of transformers.
    get_max_cache_shape = get_max_length

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove:
            raise ValueError(
                "A recurrent model cannot take tokens back: its cache holds the newest state alone. Assisted "
                "generation needs a Transformer."
            )

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.keys is not None:
            self.keys = self.values = self.keys.repeat_interleave(repeats, dim=0)

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.keys is not None:
            self.keys = self.values = self.keys[indices]


def state_in(cache: EncoderDecoderCache) -> RecurrentState:
    """The decoder's state in a cache; the empty layer that a stock cache begins with is replaced."""
    own = cache.self_attention_cache
    if not own.layers or (len(own.layers) == 1 and type(own.layers[0]) is DynamicLayer and not own.get_seq_length()):
        own.layers = [RecurrentState()]
    layer = own.layers[0]
    if not isinstance(layer, RecurrentState):
        raise ValueError(
            "A recurrent model keeps one state, whatever the length, and has a dynamic cache only, but the cache has "
            f"{type(layer).__name__}. Leave cache_implementation out, or give EncoderDecoderCache(DynamicCache(), "
            "DynamicCache())."
        )
    return layer
