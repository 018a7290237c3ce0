"""The figures of replies by the length of their conversation."""

from typing import Any

from chatformer.data.exchanges import EncodedExchanges

from .figures import Evaluation, figures_of
from .scoring import Outcome

MOST_TURNS = 4
"""Number of exchanges from which conversations count as equally long."""


def figures_by_turns(
    exchanges: EncodedExchanges, outcome: Outcome, **reply_options: Any
) -> dict[str, tuple[int, Evaluation]]:
    """
    The number of replies that end conversations of 1, 2, 3 and 4 or more exchanges, and their figures.

    Empty if no reply has a history. `reply_options` are those of `reply_figures`.
    """
    groups: dict[int, list[int]] = {}
    for index, history in enumerate(exchanges.histories):
        num_questions = sum(message["role"] == "user" for message in history)
        groups.setdefault(min(num_questions, MOST_TURNS), []).append(index)
    if max(groups, default=1) <= 1:
        return {}
    return {
        f"{length}+" if length == MOST_TURNS else str(length): (
            len(indices),
            figures_of(exchanges, outcome, indices, **reply_options),
        )
        for length, indices in sorted(groups.items())
    }
