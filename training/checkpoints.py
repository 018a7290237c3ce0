"""
Checkpoints: everything that resuming needs, in `checkpoint-STEP`, as transformers' Trainer names them.

Each is written to a temporary folder, checksummed, flushed, then renamed: a run killed at any moment leaves only
complete checkpoints.
"""

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from accelerate.utils import DistributedType, set_seed
from safetensors import SafetensorError

from chatformer.configuration.declaring import SettingsError
from chatformer.storage.explaining import first_line
from chatformer.storage.names import CHECKPOINT_PREFIX
from chatformer.storage.reading import read_structure
from chatformer.storage.writing import files_in, flush, remove_folder, replace_folder, write_json

if TYPE_CHECKING:
    from accelerate import Accelerator

CHECKSUMS_FILE = "checksums.json"


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, the latest first."""
    complete = [
        path for path in folder.glob(f"{CHECKPOINT_PREFIX}*") if path.name.removeprefix(CHECKPOINT_PREFIX).isdecimal()
    ]
    return sorted(complete, key=lambda path: int(path.name.removeprefix(CHECKPOINT_PREFIX)), reverse=True)


def save_checkpoint(accelerator: "Accelerator", folder: Path, step: int, *, limit: int) -> None:
    """Save the state of a run at `step`, then remove all but the last `limit` checkpoints."""
    # Without the number of a process: all ranks write into it, and the next run removes what a killed run left.
    partial = folder / f"{CHECKPOINT_PREFIX}{step}.partial"
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(partial))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            sums = {path.relative_to(partial).as_posix(): _sha256(path) for path in files_in(partial)}
            write_json(partial / CHECKSUMS_FILE, sums)
            flush(partial)
            checkpoint = folder / f"{CHECKPOINT_PREFIX}{step}"
            for file in foreign_files(checkpoint):
                kept = partial / file.relative_to(checkpoint)
                if not kept.exists():
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(file, kept)
            replace_folder(partial, checkpoint)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError | RuntimeError | SafetensorError):
            # torch and safetensors have errors of their own for a full disk.
            what_to_do = "Free some space, then train again."
            if checkpoints(folder):
                what_to_do = "The previous checkpoint is kept: free some space, then continue with --resume."
            raise OSError(
                f"The checkpoint of step {step} could not be written to {folder}: {first_line(error)}. {what_to_do}"
            ) from error
        raise
    if accelerator.is_main_process:
        for old in checkpoints(folder)[limit:]:
            if not foreign_files(old):
                remove_folder(old)
    accelerator.wait_for_everyone()


def load_checkpoint(accelerator: "Accelerator", checkpoint: Path, seed: int) -> list[str]:
    """Load the state of a run; return what is lost with another number of processes, in a sentence."""
    num_before, num_now = len(list(checkpoint.glob("random_states_*.pkl"))), accelerator.num_processes
    written_by = f"{checkpoint} was written by {num_before} {'processes' if num_before > 1 else 'process'}"
    if num_before != num_now and accelerator.distributed_type == DistributedType.DEEPSPEED:
        raise SettingsError(f"{written_by}, and DeepSpeed can resume it with so many only, but there are {num_now}.")
    try:
        accelerator.load_state(str(checkpoint))
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise SettingsError(
            f"{checkpoint} is not damaged, but cannot be loaded: {first_line(error)}. If it was written under another "
            "configuration of accelerate launch, resume the run under that one."
        ) from error
    if num_before == num_now:
        return []
    if accelerator.process_index >= num_before:
        # Not as the run began, nor as another process: masks of dropout would come twice.
        set_seed(seed + int(checkpoint.name.removeprefix(CHECKPOINT_PREFIX)) + accelerator.process_index)
    return [
        f"{written_by}, and {num_now} now go on from it: dropout draws other random numbers, so the run does not end "
        "with the same bits. All else is restored."
    ]


def foreign_files(checkpoint: Path) -> list[Path]:
    """The files in a checkpoint that its checksums do not list: no run wrote them."""
    if checkpoint.is_symlink():
        # What a link leads to is neither replaced nor removed.
        return []
    written = {CHECKSUMS_FILE}
    if (checkpoint / CHECKSUMS_FILE).is_file():
        try:
            written |= read_structure(checkpoint / CHECKSUMS_FILE, CHECKSUMS_FILE).keys()
        except (OSError, ValueError):
            # A run wrote it, and it is damaged.
            return []
    return [file for file in files_in(checkpoint) if file.relative_to(checkpoint).as_posix() not in written]


def damage(checkpoint: Path) -> str | None:
    """What is wrong with the files of a checkpoint; None if they are undamaged."""
    try:
        for name, expected in read_structure(checkpoint / CHECKSUMS_FILE, CHECKSUMS_FILE).items():
            if _sha256(checkpoint / name) != expected:
                return f"the checksum of {name} is wrong"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
