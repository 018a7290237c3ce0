"""What a run writes: the published model, the checkpoints, the log, the record, the curves."""

import os
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from safetensors import SafetensorError

from chatformer.configuration.declaring import SettingsError
from chatformer.configuration.recipes import recipe_files, settings_of_run
from chatformer.configuration.training import TrainingSettings
from chatformer.data.exchanges import content_digest
from chatformer.data.preparation import local_files
from chatformer.data.prose import is_prose
from chatformer.evaluation.plots.curves import draw_curves
from chatformer.storage.environment import environment
from chatformer.storage.explaining import StorageError, first_few, first_line
from chatformer.storage.keeping import check_kept, is_same_file
from chatformer.storage.names import (
    BAD_ROWS_FILES,
    CURVES_FILE,
    LOG_FILE,
    PUBLISHING_FOLDER,
    RECORD_FILE,
    REMOVING_FOLDER,
    SETTINGS_FILE,
    is_written_by_a_run,
)
from chatformer.storage.reading import read_json_lines, read_structure
from chatformer.storage.writing import (
    append_json_line,
    check_output_folder,
    files_in,
    flush,
    json_line,
    remove_together,
    temporary_name,
    write_json,
    write_text,
)

from .checkpoints import checkpoints, damage, foreign_files, load_checkpoint, save_checkpoint
from .progress import Progress
from .resuming import check_changes

if TYPE_CHECKING:
    from accelerate import Accelerator


class RunFolder:
    """The output folder of a run, in which every file is complete at any moment."""

    def __init__(self, path: Path):
        self.path = path
        self.record: dict[str, Any] = {}
        # What a run that is resumed began with.
        self.begun_with: TrainingSettings | None = None
        self.begun_with_data: dict[str, Any] = {}

    @classmethod
    def prepared(cls, accelerator: "Accelerator", settings: TrainingSettings) -> "RunFolder":
        """The settings' folder; raises a `SettingsError` unless a run may begin, or be resumed, in it."""
        folder = cls(Path(settings.run.output_dir or "."))
        if settings.run.resume:
            if not checkpoints(folder.path):
                raise SettingsError(f"There is nothing to resume: {folder.path} has no checkpoint.")
            folder.begun_with = settings_of_run(folder.path)
            folder.begun_with_data = read_structure(folder.path / RECORD_FILE).get("data", {})
            check_changes(folder.path, folder.begun_with, settings)
            folder.check_inputs_are_kept(settings)
        elif settings.run.overwrite_output_dir and (folder.path / SETTINGS_FILE).is_file():
            folder.check_inputs_are_kept(settings)
            folder.check_removable()
        else:
            check_output_folder(folder.path)
            folder.check_not_taken(may_replace_run=settings.run.overwrite_output_dir)
        # All ranks check before any rank writes.
        accelerator.wait_for_everyone()
        return folder

    def files(self) -> list[Path]:
        """The files and folders in this folder that a run wrote."""
        if not self.path.is_dir():
            return []
        return [entry for entry in self.path.iterdir() if is_written_by_a_run(entry.name, is_folder=entry.is_dir())]

    def check_removable(self) -> None:
        """Raise a `SettingsError` if something that no run wrote would be removed together with what a run wrote."""
        foreign = [
            str(file.relative_to(self.path))
            for checkpoint in checkpoints(self.path)
            for file in foreign_files(checkpoint)
        ]
        if foreign:
            raise SettingsError(
                f"--overwrite-output-dir removes only what a run wrote, but the checkpoints in {self.path} hold "
                f"{first_few(foreign)} as well. Move that, or choose another --output-dir."
            )

    def check_inputs_are_kept(self, settings: TrainingSettings) -> None:
        """Raise a `StorageError` if the run would remove or overwrite what it reads."""
        outputs = [part for entry in self.files() for part in (files_in(entry) if entry.is_dir() else [entry])]
        inputs = {
            "--data": local_files(settings.data.data),
            "--validation-data": local_files(settings.data.validation_data),
            # A run is resumed by its own settings, which it writes again.
            "--recipe": [
                file
                for file in recipe_files(settings.recipe)
                if not (settings.run.resume and is_same_file(file, self.path / SETTINGS_FILE))
            ],
        }
        check_kept(outputs, inputs, flag="--output-dir")

    def check_data(self, data: dict[str, Any]) -> None:
        """Raise a `SettingsError` if the data differs from the run's data so far."""
        before = self.begun_with_data
        for name in ("training_sha256", "validation_sha256"):
            if before.get(name) != data[name]:
                part = name.removesuffix("_sha256")
                raise SettingsError(
                    f"The run in {self.path} began with other {part} conversations: "
                    f"{before.get(f'{part}_conversations')} before, {data[f'{part}_conversations']} now. Name the same "
                    "data, or add --resume-changed to continue with the new data."
                )

    def check_not_taken(self, *, may_replace_run: bool) -> None:
        """Raise a `SettingsError` if the folder has content, which a new run must not touch."""
        if not self.path.exists() or not any(self.path.iterdir()):
            return
        what_to_do = (
            "It holds no run that --overwrite-output-dir may replace: choose another folder."
            if may_replace_run
            else "Choose another folder, continue an earlier run with --resume, or replace it with "
            "--overwrite-output-dir."
        )
        raise SettingsError(f"--output-dir {self.path} is not empty. {what_to_do}")

    def begin(
        self,
        settings: TrainingSettings,
        figures: dict[str, Any],
        data: dict[str, Any],
        tokenizer: Any,
        steps_done: int,
    ) -> None:
        """Record what is about to run; remove an earlier run, or log lines after the checkpoint of a resumed run."""
        self.path.mkdir(parents=True, exist_ok=True)
        tracking_id = None
        if settings.run.resume:
            tracking_id = read_structure(self.path / RECORD_FILE).get("tracking_id")
            self._cut_log(steps_done)
        elif settings.run.overwrite_output_dir:
            # The bad rows of this run are listed already.
            outdated = [entry for entry in self.files() if entry.name not in BAD_ROWS_FILES]
            remove_together(outdated, temporary_name(self.path / REMOVING_FOLDER))
        recipe = yaml.safe_dump(recipe_of(settings), allow_unicode=True, sort_keys=False)
        write_text(self.path / SETTINGS_FILE, recipe)
        self.record = {"data": data, "overview": figures, "environment": environment()}
        if settings.run.log_with or tracking_id:
            self.record["tracking_id"] = tracking_id or uuid.uuid4().hex[:12]
        write_json(self.path / RECORD_FILE, self.record)
        tokenizer.save_pretrained(self.path)

    def load_tokenizer(self, settings: TrainingSettings) -> Any:
        """The tokenizer of the run so far, with the settings' limit."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.path)
        tokenizer.model_max_length = settings.tokenizer.max_source_tokens
        return tokenizer

    def _cut_log(self, steps_done: int) -> None:
        lines = read_json_lines(self.path / LOG_FILE)
        write_text(self.path / LOG_FILE, "".join(json_line(line) for line in lines if line["step"] <= steps_done))

    def log(self, line: dict[str, Any]) -> None:
        """Add a line to the log."""
        append_json_line(self.path / LOG_FILE, line)

    def save_checkpoint(self, accelerator: "Accelerator", step: int, *, limit: int) -> None:
        """Save a checkpoint; keep at most `limit` checkpoints."""
        save_checkpoint(accelerator, self.path, step, limit=limit)

    def load_checkpoint(self, accelerator: "Accelerator", seed: int) -> list[str]:
        """
        Load the latest undamaged checkpoint; return what is lost, in a sentence each.

        `seed` is for the random states of processes that the checkpoint has none for.
        """
        problems: list[str] = []
        for checkpoint in checkpoints(self.path):
            problem = damage(checkpoint)
            if problem is None:
                lost = load_checkpoint(accelerator, checkpoint, seed)
                return [f"{problem} The checkpoint before is used." for problem in problems] + lost
            problems.append(f"{checkpoint.name} is damaged: {problem}.")
        raise SettingsError(
            f"No checkpoint in {self.path} is undamaged. {' '.join(problems)} Start again with --overwrite-output-dir."
        )

    def publish(self, model: Any, tokenizer: Any) -> None:
        """Write the model and its tokenizer into the folder, as `from_pretrained` reads them."""
        partial = self.path / PUBLISHING_FOLDER
        shutil.rmtree(partial, ignore_errors=True)
        try:
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            flush(partial)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise StorageError(f"The model could not be written to {self.path}: {first_line(error)}.") from error
        for file in sorted(partial.iterdir()):
            os.replace(file, self.path / file.name)
        partial.rmdir()

    def finish(self, progress: Progress, *, finished: bool) -> None:
        """Complete the record, and draw the curves of a run that came to its end."""
        self.record |= {
            "finished": finished,
            "steps_taken": progress.step,
            "minutes": round(progress.seconds / 60, 2),
            "target_tokens_per_second": round(progress.target_tokens / max(progress.training_seconds, 1e-9)),
            "best": {"step": progress.best_step, **(progress.best_evaluation or {})},
        }
        write_json(self.path / RECORD_FILE, self.record)
        if finished:
            draw_curves(self.path / LOG_FILE, self.path / CURVES_FILE)


def recipe_of(settings: TrainingSettings) -> dict[str, Any]:
    """The settings as a recipe that repeats the run."""
    left_out = {"recipe", "minutes", "resume", "resume_changed", "overwrite_output_dir", "dry_run", "verify_resume"}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in settings.flat().items()
        if name not in left_out
    }


def describe_data(training: Any, validation: Any, settings: TrainingSettings) -> dict[str, Any]:
    """The names, counts and checksums of a run's data."""
    return {
        "sources": [Path(source).name if Path(source).exists() else source for source in settings.data.data],
        **({"kind": "prose"} if is_prose(training) else {}),
        "training_conversations": len(training),
        "validation_conversations": len(validation),
        "training_sha256": content_digest(training),
        "validation_sha256": content_digest(validation),
    }
