"""Proof, on this machine and this data, that a run that is killed and resumed ends like an undisturbed run."""

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from chatformer.configuration.training import TrainingSettings
from chatformer.storage.bars import progress_bar
from chatformer.storage.names import LOG_FILE
from chatformer.storage.reading import read_json_lines

from .checkpoints import checkpoints
from .output import recipe_of

NUM_STEPS = 40
NUM_KILLS = 4
SAVE_STEPS = 5
MAX_EVAL_REPLIES = 20


def verify_resume(settings: TrainingSettings) -> int:
    """
    Train for a few steps twice, once undisturbed and once killed several times; return the exit status.

    0 if both runs end with the same bits in the weights, in the last checkpoint and in the losses of the log. The kill
    comes at random moments, and leaves a process no time to clean up.
    """
    with tempfile.TemporaryDirectory(prefix="chatformer-verify-resume-") as name:
        folder = Path(name)
        recipe = folder / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(_short(recipe_of(settings)), allow_unicode=True), "utf-8")
        alone, killed = folder / "alone", folder / "killed"
        began = time.monotonic()
        _run(recipe, alone, resume=False)
        seconds = time.monotonic() - began
        num_kills = _run_and_kill(recipe, killed, seconds)
        differences = _differences(alone, killed)
    if differences:
        print(f"error: After {num_kills} kills, {', '.join(differences)} differ from the undisturbed run.")
        return 1
    print(
        f"Killed {num_kills} times and resumed, a run of {NUM_STEPS} steps ended with the same bits as an undisturbed "
        "run: weights, optimizer, schedule, averages, random states and losses."
    )
    return 0


def _short(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe with few steps, and with every kind of work that a run does."""
    left_out = {
        "output_dir",
        "early_stopping_patience",
        "num_train_epochs",
        "minutes",
        "push_to_hub",
        "hub_model_id",
        "hub_private_repo",
        "hub_samples",
    }
    return {name: value for name, value in recipe.items() if value is not None and name not in left_out} | {
        "max_steps": NUM_STEPS,
        "warmup_steps": min(recipe["warmup_steps"] or NUM_STEPS, NUM_STEPS // 2),
        "save_steps": SAVE_STEPS,
        "eval_steps": 2 * SAVE_STEPS,
        "logging_steps": 1,
        "max_eval_replies": min(recipe["max_eval_replies"], MAX_EVAL_REPLIES),
        "metric_for_best_model": "loss",
    }


def _run(recipe: Path, folder: Path, *, resume: bool) -> None:
    process = _start(recipe, folder, resume=resume)
    _, errors = process.communicate()
    if process.returncode:
        raise ValueError(f"The run to be verified failed:\n{errors.strip()}")


def _start(recipe: Path, folder: Path, *, resume: bool) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "chatformer.training", "--recipe", str(recipe), "--output-dir", str(folder)]
    # The number of threads decides the order of a sum, and with it the last bits.
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    return subprocess.Popen(
        [*command, *(["--resume"] if resume else [])],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def _run_and_kill(recipe: Path, folder: Path, seconds: float) -> int:
    """Run to the end despite kills; return the number of kills. An undisturbed run takes `seconds`."""
    chance = random.Random()
    num_kills = 0
    with progress_bar(total=NUM_KILLS, description="killing and resuming", unit="kill") as bar:
        for _ in range(NUM_KILLS):
            is_resumed = bool(checkpoints(folder))
            process = _start(recipe, folder, resume=is_resumed)
            # Without a checkpoint there would be nothing to resume.
            while process.poll() is None and not checkpoints(folder):
                time.sleep(0.01)
            was_killed = False
            try:
                process.wait(timeout=chance.uniform(0, seconds / NUM_KILLS) + (seconds / 3 if is_resumed else 0))
            except subprocess.TimeoutExpired:
                process.kill()
                was_killed = True
                num_kills += 1
            _, errors = process.communicate()
            # The status of a killed process differs between systems.
            if process.returncode and not was_killed:
                raise ValueError(f"The run to be verified failed:\n{errors.strip()}")
            if process.returncode == 0:
                return num_kills
            bar.update()
    _run(recipe, folder, resume=True)
    return num_kills


def _differences(one: Path, other: Path) -> list[str]:
    """The names of the parts in which two runs differ."""
    last, other_last = checkpoints(one)[0], checkpoints(other)[0]
    names = [] if last.name == other_last.name else ["the last steps"]
    for path in sorted(last.glob("*")):
        if not _same(path, other_last / path.name):
            names.append(path.name)
    if (one / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes():
        names.append("the published weights")
    if _losses(one) != _losses(other):
        names.append("the losses in the log")
    return names


def _same(one: Path, other: Path) -> bool:
    """True if two files of checkpoints are equal, except for measured times."""
    import torch

    if one.name == "checksums.json" or one.is_dir():
        return True
    if one.read_bytes() == other.read_bytes():
        return True
    if one.suffix not in (".bin", ".pkl"):
        return False
    states = [torch.load(path, weights_only=False) for path in (one, other)]
    for state in states:
        if isinstance(state, dict):
            state.pop("seconds", None)
            state.pop("training_seconds", None)
    return _equal(*states)


def _equal(one: Any, other: Any) -> bool:
    import numpy as np
    import torch

    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and np.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


def _losses(folder: Path) -> list[dict[str, Any]]:
    """The lines of a log, without times."""
    return [
        {name: value for name, value in line.items() if name not in ("seconds", "tokens_per_second")}
        for line in read_json_lines(folder / LOG_FILE)
    ]
