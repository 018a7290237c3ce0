"""The progress of a run: what a checkpoint saves besides weights and states."""

import dataclasses
import math
from typing import Any


@dataclasses.dataclass
class Progress:
    """The progress of a run; saved with every checkpoint."""

    step: int = 0
    micro_batches: int = 1
    """Parts that each process splits its share of a step into."""
    seconds: float = 0.0
    training_seconds: float = 0.0
    """Those seconds without evaluations and checkpoints."""
    target_tokens: int = 0
    losses: list[float] = dataclasses.field(default_factory=list)
    """Losses of the steps since the last line of the log."""
    lowest_loss: float = math.inf
    """The lowest mean loss in a line of the log."""
    evaluated_step: int = 0
    best_figure: float | None = None
    best_step: int | None = None
    best_evaluation: dict[str, Any] | None = None
    evaluations_since_best: int = 0

    def state_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
