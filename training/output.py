"""What a run writes: the published model, the checkpoints, the log, the record, the curves."""

import os
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from chatformer.configuration.declaring import SettingsError
from chatformer.configuration.recipes import read_recipe
from chatformer.configuration.training import TrainingSettings
from chatformer.data.exchanges import content_digest
from chatformer.evaluation.plots.curves import draw_curves
from chatformer.storage.environment import environment
from chatformer.storage.names import BAD_ROWS_FILES, CURVES_FILE, LOG_FILE, RECORD_FILE, SETTINGS_FILE
from chatformer.storage.reading import read_json_lines, read_structure
from chatformer.storage.writing import append_json_line, flush, json_line, write_json, write_text

from .checkpoints import checkpoints, damage, save_checkpoint
from .progress import Progress

if TYPE_CHECKING:
    from accelerate import Accelerator

MAY_CHANGE = frozenset(
    {
        "recipe",
        # The content of the data must be the same, not its place.
        "data",
        "data_sha256",
        "validation_data",
        "skip_bad_rows",
        "preprocessing_num_workers",
        "output_dir",
        "logging_steps",
        "log_with",
        "save_total_limit",
        "push_to_hub",
        "hub_model_id",
        "hub_strategy",
        "hub_private_repo",
        "hub_samples",
        "minutes",
        "resume",
        "resume_changed",
        "overwrite_output_dir",
        "dry_run",
        "verify_resume",
    }
)
"""Settings that do not change what a run learns: a resumed run may have other values."""


class RunFolder:
    """The output folder of a run, in which every file is complete at any moment."""

    def __init__(self, path: Path):
        self.path = path
        self.record: dict[str, Any] = {}

    @classmethod
    def prepared(cls, accelerator: "Accelerator", settings: TrainingSettings) -> "RunFolder":
        """The settings' folder; raises a `SettingsError` unless a run may begin, or be resumed, in it."""
        folder = cls(Path(settings.run.output_dir or "."))
        if settings.run.resume:
            if not checkpoints(folder.path):
                raise SettingsError(f"There is nothing to resume: {folder.path} has no checkpoint.")
            if not settings.run.resume_changed:
                folder.check_settings(settings)
        elif folder.is_taken() and not (settings.run.overwrite_output_dir and (folder.path / SETTINGS_FILE).is_file()):
            raise SettingsError(
                f"--output-dir {folder.path} is not empty. Choose another folder, continue an earlier run with "
                "--resume, or replace it with --overwrite-output-dir."
            )
        # All ranks check before any rank writes.
        accelerator.wait_for_everyone()
        return folder

    def check_settings(self, settings: TrainingSettings) -> None:
        """Raise a `SettingsError` if settings that change what is learnt differ from the run's settings so far."""
        now, before = settings.flat(), read_recipe(str(self.path / SETTINGS_FILE)).flat()
        changed = [name for name in now if name not in MAY_CHANGE and now[name] != before[name]]
        if changed:
            differences = "".join(f"\n    {name}: {before[name]} before, {now[name]} now" for name in changed)
            raise SettingsError(
                f"The run in {self.path} began with other settings:{differences}\nLeave them as they were, or add "
                "--resume-changed to continue with the new ones."
            )

    def check_data(self, data: dict[str, Any]) -> None:
        """Raise a `SettingsError` if the data differs from the run's data so far."""
        before = read_structure(self.path / RECORD_FILE)["data"]
        for name in ("training_sha256", "validation_sha256"):
            if before.get(name) != data[name]:
                part = name.removesuffix("_sha256")
                raise SettingsError(
                    f"The run in {self.path} began with other {part} conversations: "
                    f"{before.get(f'{part}_conversations')} before, {data[f'{part}_conversations']} now. Name the same "
                    "data, or add --resume-changed to continue with the new data."
                )

    def is_taken(self) -> bool:
        """True if there is a file or a folder with content at this path."""
        return self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))

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
            for entry in self.path.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry)
                elif entry.name not in BAD_ROWS_FILES:
                    entry.unlink()
        recipe = yaml.safe_dump(recipe_of(settings), allow_unicode=True, sort_keys=False)
        write_text(self.path / SETTINGS_FILE, recipe)
        self.record = {"data": data, "overview": figures, "environment": environment()}
        if settings.run.log_with or tracking_id:
            self.record["tracking_id"] = tracking_id or uuid.uuid4().hex[:12]
        write_json(self.path / RECORD_FILE, self.record)
        tokenizer.save_pretrained(self.path)

    def load_tokenizer(self) -> Any:
        """The tokenizer of the run so far."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.path)

    def _cut_log(self, steps_done: int) -> None:
        lines = read_json_lines(self.path / LOG_FILE)
        write_text(self.path / LOG_FILE, "".join(json_line(line) for line in lines if line["step"] <= steps_done))

    def log(self, line: dict[str, Any]) -> None:
        """Add a line to the log."""
        append_json_line(self.path / LOG_FILE, line)

    def save_checkpoint(self, accelerator: "Accelerator", step: int, *, limit: int) -> None:
        """Save a checkpoint; keep at most `limit` checkpoints."""
        save_checkpoint(accelerator, self.path, step, limit=limit)

    def load_checkpoint(self, accelerator: "Accelerator") -> list[str]:
        """Load the latest undamaged checkpoint; return what is wrong with later ones, in a sentence each."""
        problems: list[str] = []
        for checkpoint in checkpoints(self.path):
            problem = damage(checkpoint)
            if problem is None:
                accelerator.load_state(str(checkpoint))
                return problems
            problems.append(f"{checkpoint.name} is damaged: {problem}.")
        raise SettingsError(
            f"No checkpoint in {self.path} is undamaged. {' '.join(problems)} Start again with --overwrite-output-dir."
        )

    def publish(self, model: Any, tokenizer: Any) -> None:
        """Write the model and its tokenizer into the folder, as `from_pretrained` reads them."""
        partial = self.path / "publishing.partial"
        shutil.rmtree(partial, ignore_errors=True)
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        flush(partial)
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
        "training_conversations": len(training),
        "validation_conversations": len(validation),
        "training_sha256": content_digest(training),
        "validation_sha256": content_digest(validation),
    }
