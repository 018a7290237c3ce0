"""What every engine does: reply and score, a batch at a time."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from transformers import GenerationConfig

Ids = Sequence[int] | np.ndarray
OnToken = Callable[[int, int], bool | None]
"""Called with the index of a source and the next id of its reply; True ends this reply."""

DEFAULT_MAX_NEW_TOKENS = 256
"""The longest reply if neither the search nor the model's own settings set a limit."""

DEFAULTS = {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "repetition_penalty": 1.0, "length_penalty": 1.0}
"""What `generate()` takes where a model's own settings leave it open."""

GREEDY = GenerationConfig(do_sample=False, num_beams=1)
"""The search that takes the likeliest token at each step."""


DRAWN = GenerationConfig(num_beams=1)
"""The search of a model that draws its replies by its own settings."""


class Engine(Protocol):
    """Computes replies and scores of ids; a tokenizer turns them into texts."""

    num_parallel: int
    """The number of threads that can call `generate` at the same time."""
    keeps_seeds: bool
    """True if `set_seed` makes the replies after it repeatable, however often it is called."""

    @property
    def own_search(self) -> GenerationConfig:
        """The model's own settings, which hold for what a search leaves open."""
        ...

    def repetition_penalty(self, search: GenerationConfig) -> float:
        """The one that a search has: what it asks for, or else the model's own."""
        ...

    @property
    def max_new_tokens(self) -> int:
        """The longest reply of a search that sets no limit."""
        ...

    def generate(
        self, sources: Sequence[Ids], search: GenerationConfig, on_token: OnToken | None = None
    ) -> list[list[int]]:
        """
        The ids of the reply to each source, found by `search`, which `ReplySettings.search` makes.

        `on_token` is called with each id as soon as it is known, the end token included. A search over several beams
        knows its ids only at the end, and does not call it.
        """
        ...

    def score(self, sources: Sequence[Ids], targets: Sequence[Ids]) -> list[float]:
        """The negative log-likelihood, in nats, of each target given its source; targets include the end token."""
        ...

    def set_seed(self, seed: int) -> None:
        """Make sampling repeatable from now on."""
        ...


def usual_search(engine: Engine) -> GenerationConfig:
    """How replies are found that are measured or shown: greedily, unless the model's own settings draw them."""
    return DRAWN if engine.own_search.do_sample else GREEDY


@contextlib.contextmanager
def drawing_by(seed: int) -> Iterator[None]:
    """Within, replies of transformers are drawn by the seed; what is drawn after it is as without it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
