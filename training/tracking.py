"""The trackers that a run reports to, besides its log: TensorBoard, trackio, Weights & Biases."""

import importlib.util
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import filter_trackers

from chatformer.configuration.declaring import SettingsError
from chatformer.configuration.training import Tracker
from chatformer.storage.names import TRACKING_FOLDER

from .output import RunFolder

PROJECT = "chatformer"
"""What trackers file all runs under; a run has the name of its folder."""


def check_trackers(names: Sequence[str]) -> None:
    """Raise a `SettingsError` if a tracker is unknown, or its package is missing."""
    for name in names:
        # A recipe may name anything.
        if name not in typing.get_args(Tracker):
            raise SettingsError(
                f"--log-with must be one or more of {', '.join(typing.get_args(Tracker))}, but it is {name!r}."
            )
        if importlib.util.find_spec(name) is None:
            raise SettingsError(f"--log-with {name} needs the package {name}. Run: pip install {name}")


def start_trackers(
    accelerator: Accelerator, folder: RunFolder, names: Sequence[str], settings: Mapping[str, Any], steps_done: int
) -> None:
    """Begin to report a run; one that is resumed goes on in the run that it began, after `steps_done` steps."""
    if not names:
        return
    run_id = folder.record["tracking_id"]
    accelerator.project_configuration.set_directories(str(folder.path))
    accelerator.project_configuration.logging_dir = str(folder.path / TRACKING_FOLDER)
    # The accelerator was made before there was a folder.
    accelerator.log_with = filter_trackers(list(names), accelerator.logging_dir)
    run_name = folder.path.absolute().name
    # Trackers take numbers and texts alone.
    config = {name: plain(value) for name, value in settings.items() if value is not None}
    accelerator.init_trackers(
        PROJECT,
        # Once, at the beginning.
        config=None if steps_done else config,
        init_kwargs={
            # Steps after the checkpoint are repeated.
            "tensorboard": {"purge_step": steps_done + 1} if steps_done else {},
            # Without the settings, it would forget those of the run that it resumes.
            "trackio": {"name": f"{run_name}-{run_id}", "resume": "allow", "config": config},
            "wandb": {"name": run_name, "id": run_id, "resume": "allow"},
        },
    )


def plain(value: Any) -> bool | int | float | str:
    """A setting as trackers take it."""
    return value if isinstance(value, bool | int | float | str) else " ".join(map(str, value))


def report(accelerator: Accelerator, line: Mapping[str, Any]) -> None:
    """Report the figures in a line of the log."""
    figures = {name: value for name, value in line.items() if isinstance(value, int | float) and name != "step"}
    accelerator.log(figures, step=line["step"])
