"""
Checkpoints: all that resuming needs, `checkpoint-STEP`, as transformers' Trainer names them.

Each is written aside, brought to the disk, summed up in checksums and only then renamed, so that a run that is killed
at any instant leaves whole ones behind.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import Accelerator

PREFIX = "checkpoint-"
CHECKSUMS_FILE = "checksums.json"


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, the last first."""
    found = [path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdecimal()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(PREFIX)), reverse=True)


def save_checkpoint(accelerator: "Accelerator", folder: Path, step: int, *, limit: int) -> None:
    """Save the state of a run at `step`, then remove all but the last `limit` checkpoints."""
    aside = folder / f"{PREFIX}{step}.partial"
    if accelerator.is_main_process:
        shutil.rmtree(aside, ignore_errors=True)
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(aside))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            sums = {str(path.relative_to(aside)): _sha256(path) for path in _files(aside)}
            (aside / CHECKSUMS_FILE).write_text(json.dumps(sums, indent=2), "utf-8")
            for path in [*_files(aside), aside]:
                _bring_to_disk(path)
            _put_in_place(aside, folder / f"{PREFIX}{step}")
            _bring_to_disk(folder)
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(error, OSError | RuntimeError):
            # torch has its own error for a full disk.
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise OSError(
                f"The checkpoint of step {step} could not be written to {folder}: {reason}. The one before is kept: "
                "make room and go on with --resume."
            ) from error
        raise
    if accelerator.is_main_process:
        for old in checkpoints(folder)[limit:]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def damage(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint's files, or None."""
    try:
        sums = json.loads((checkpoint / CHECKSUMS_FILE).read_text("utf-8"))
        for name, expected in sums.items():
            if _sha256(checkpoint / name) != expected:
                return f"{name} is not as it was written"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (OSError, ValueError, AttributeError) as error:
        return f"{CHECKSUMS_FILE} cannot be read: {error}"
    return None


def _put_in_place(aside: Path, place: Path) -> None:
    if place.exists():
        # A folder cannot be replaced at once; the checkpoint before this one is still there meanwhile.
        outdated = place.with_name(f"{place.name}.outdated")
        shutil.rmtree(outdated, ignore_errors=True)
        os.replace(place, outdated)
        os.replace(aside, place)
        shutil.rmtree(outdated)
    else:
        os.replace(aside, place)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bring_to_disk(path: Path) -> None:
    # Some systems cannot open folders.
    with contextlib.suppress(PermissionError, IsADirectoryError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
