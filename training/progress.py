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
    micro_batches_set: int | None = None
    """The setting that they began with, before memory ran out."""
    without_graphs: bool = False
    """There was no memory for CUDA graphs."""
    seconds: float = 0.0
    training_seconds: float = 0.0
    """Those seconds without evaluations and checkpoints."""
    target_tokens: int = 0
    losses: list[float] = dataclasses.field(default_factory=list)
    """Losses of the steps since the last line of the log."""
    lowest_loss: float = math.inf
    """The lowest mean loss in a line of the log."""
    evaluated_step: int = 0
    judged_by: dict[str, Any] | None = None
    """What the figures of the evaluations depend on."""
    best_figure: float | None = None
    best_step: int | None = None
    best_evaluation: dict[str, Any] | None = None
    evaluations_since_best: int = 0

    def state_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # Earlier versions saved fewer values.
        for name, value in (dataclasses.asdict(Progress()) | state).items():
            setattr(self, name, value)

    def judge_by(self, judged_by: dict[str, Any], before: dict[str, Any]) -> None:
        """
        Look for the best of the evaluations whose figures depend on this.

        If those so far depended on something else (`before`, unless a checkpoint says it), the best of them is
        forgotten, and the present step is evaluated again.
        """
        if self.step and (self.judged_by or before) != judged_by:
            self.best_figure = self.best_step = self.best_evaluation = None
            self.evaluations_since_best = 0
            self.evaluated_step = min(self.evaluated_step, self.step - 1)
        self.judged_by = judged_by
