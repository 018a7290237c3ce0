"""What a run writes: the published model, the checkpoint to resume from, the log, the record, the curves."""

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from chatformer.data.exchanges import content_digest
from chatformer.storage.environment import environment
from chatformer.storage.names import BAD_ROWS_FILES, CURVES_FILE, LOG_FILE, RECORD_FILE, SETTINGS_FILE
from chatformer.storage.reading import read_json_lines, read_structure
from chatformer.storage.writing import append_json_line, json_line, write_json, write_text

from .checkpoints import checkpoints, damage, save_checkpoint
from .settings import SettingsError, TrainingSettings, read_recipe

if TYPE_CHECKING:
    from accelerate import Accelerator

    from .progress import Progress

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
"""Settings without influence on what a run learns: a resumed run may have others."""


class RunFolder:
    """The output folder of a run, in which every file is complete at any moment."""

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def prepared(cls, accelerator: "Accelerator", settings: TrainingSettings) -> "RunFolder":
        """The settings' folder, empty or with a checkpoint to resume; raise a `SettingsError` for any other."""
        folder = cls(Path(settings.run.output_dir or "."))
        if settings.run.resume:
            if not checkpoints(folder.path):
                raise SettingsError(f"There is nothing to resume: {folder.path} has no checkpoint.")
            if not settings.run.resume_changed:
                folder.check_settings(settings)
        elif folder.is_taken() and not (settings.run.overwrite_output_dir and (folder.path / SETTINGS_FILE).is_file()):
            raise SettingsError(
                f"--output-dir {folder.path} is not empty. Choose another folder, go on with --resume, "
                "or replace an earlier run with --overwrite-output-dir."
            )
        # All ranks check before any rank writes.
        accelerator.wait_for_everyone()
        return folder

    def check_settings(self, settings: TrainingSettings) -> None:
        """Raise a `SettingsError` if settings that matter differ from those of the run so far."""
        now, before = settings.flat(), read_recipe(str(self.path / SETTINGS_FILE)).flat()
        changed = [name for name in now if name not in MAY_CHANGE and now[name] != before[name]]
        if changed:
            differences = "".join(f"\n    {name}: {before[name]} before, {now[name]} now" for name in changed)
            raise SettingsError(
                f"The run in {self.path} was begun with other settings:{differences}\nLeave them as they were, or add "
                "--resume-changed to go on all the same."
            )

    def check_data(self, data: dict[str, Any]) -> None:
        """Raise a `SettingsError` if the data differs from that of the run so far."""
        before = read_structure(self.path / RECORD_FILE)["data"]
        for name in ("training_sha256", "validation_sha256"):
            if before.get(name) != data[name]:
                part = name.removesuffix("_sha256")
                raise SettingsError(
                    f"The run in {self.path} was begun with other {part} conversations: "
                    f"{before.get(f'{part}_conversations')} before, {data[f'{part}_conversations']} now. Name the same "
                    "data, or add --resume-changed to go on all the same."
                )

    def is_taken(self) -> bool:
        """True if there is a file or a folder with content at this path."""
        return self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))

    def begin(
        self,
        settings: TrainingSettings,
        overview: dict[str, Any],
        data: dict[str, Any],
        tokenizer: Any,
        steps_done: int,
    ) -> None:
        """Record what is about to run; remove an earlier run, or what a resumed one logged after its checkpoint."""
        self.path.mkdir(parents=True, exist_ok=True)
        if settings.run.resume:
            self._cut_log(steps_done)
        elif settings.run.overwrite_output_dir:
            for entry in self.path.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry)
                elif entry.name not in BAD_ROWS_FILES:
                    entry.unlink()
        recipe = yaml.safe_dump(recipe_of(settings), allow_unicode=True, sort_keys=False)
        write_text(self.path / SETTINGS_FILE, recipe)
        self.record: dict[str, Any] = {"data": data, "overview": overview, "environment": environment()}
        write_json(self.path / RECORD_FILE, self.record)
        tokenizer.save_pretrained(self.path)

    def load_tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.path)

    def _cut_log(self, steps_done: int) -> None:
        lines = read_json_lines(self.path / LOG_FILE)
        write_text(self.path / LOG_FILE, "".join(json_line(line) for line in lines if line["step"] <= steps_done))

    def log(self, line: dict[str, Any]) -> None:
        """Add a line to the log."""
        append_json_line(self.path / LOG_FILE, line)

    def save_checkpoint(self, accelerator: "Accelerator", step: int, *, limit: int) -> None:
        """Save everything that resuming needs."""
        save_checkpoint(accelerator, self.path, step, limit=limit)

    def load_checkpoint(self, accelerator: "Accelerator") -> None:
        """Load the last undamaged checkpoint; raise a `SettingsError` if there is none."""
        for checkpoint in checkpoints(self.path):
            problem = damage(checkpoint)
            if problem is None:
                accelerator.load_state(str(checkpoint))
                return
            if accelerator.is_main_process:
                print(f"{checkpoint.name} is damaged ({problem}); trying the one before.", file=sys.stderr)
        raise SettingsError(f"No checkpoint in {self.path} is undamaged. Start again with --overwrite-output-dir.")

    def publish(self, model: Any, tokenizer: Any) -> None:
        """Put the model and its tokenizer into the folder, in the form that `from_pretrained` reads."""
        partial = self.path / "publishing.partial"
        shutil.rmtree(partial, ignore_errors=True)
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        for file in sorted(partial.iterdir()):
            os.replace(file, self.path / file.name)
        partial.rmdir()

    def finish(self, progress: "Progress", *, finished: bool) -> None:
        """Draw the curves, complete the record, and print what was written and what to do next."""
        from rich.console import Console

        # The progress bar is on stderr too; stdout is for the results of commands.
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        self.record |= {
            "finished": finished,
            "steps_taken": progress.step,
            "minutes": round(progress.seconds / 60, 2),
            "target_tokens_per_second": round(progress.target_tokens / max(progress.training_seconds, 1e-9)),
            "best": {"step": progress.best_step, **(progress.best_evaluation or {})},
        }
        write_json(self.path / RECORD_FILE, self.record)
        if not finished:
            console.print(f"\nStopped after step {progress.step}; nothing is lost. Go on with")
            console.print(f"    chatformer train --output-dir {self.path} --resume")
            return
        from chatformer.evaluation.plots import draw_curves

        drawn = draw_curves(self.path / LOG_FILE, self.path / CURVES_FILE)
        console.print(f"\nDone in {progress.seconds / 60:.1f} minutes. Written to {self.path}:")
        best = ""
        if progress.best_step and progress.best_step < progress.step:
            best = f", the best of the run, from step {progress.best_step}"
        console.print(f"    model.safetensors, tokenizer.json, ...  the model{best}")
        console.print(f"    checkpoint-{progress.step}  the last state of the training")
        console.print(f"    {LOG_FILE}, {RECORD_FILE}, {SETTINGS_FILE}  the log, what was trained and how")
        if drawn:
            console.print(f"    {CURVES_FILE}  the curves")
        else:
            console.print("    (no curves: pip install 'chatformer[plots]' draws them)")
        console.print(f"Talk to it with\n    chatformer chat {self.path}")


def recipe_of(settings: TrainingSettings) -> dict[str, Any]:
    """The settings as a recipe that repeats the run."""
    left_out = ("recipe", "minutes", "resume", "resume_changed", "overwrite_output_dir", "dry_run", "verify_resume")
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in settings.flat().items()
        if name not in left_out
    }


def describe_data(training: Any, validation: Any, settings: TrainingSettings) -> dict[str, Any]:
    """What the model is trained on: names, counts and checksums."""
    return {
        "sources": [Path(source).name if Path(source).exists() else source for source in settings.data.data],
        "training_conversations": len(training),
        "validation_conversations": len(validation),
        "training_sha256": content_digest(training),
        "validation_sha256": content_digest(validation),
    }
