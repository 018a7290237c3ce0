"""What a run leaves on disk: the published model, the checkpoint to resume from, the log, the record, the curves."""

import contextlib
import json
import os
import platform
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from chatformer.data.exchanges import content_digest

from .checkpoints import checkpoints, damage, save_checkpoint
from .settings import SETTINGS_FILE, SettingsError, TrainingSettings, read_recipe

if TYPE_CHECKING:
    from accelerate import Accelerator

    from .progress import Progress

LOG_FILE = "training_log.jsonl"
RECORD_FILE = "training_record.json"
CURVES_FILE = "training_curves.png"
BAD_ROWS_FILES = ("bad_rows.jsonl", "bad_validation_rows.jsonl")

MAY_CHANGE = frozenset(
    {
        "recipe",
        # Their content counts, not where it lies.
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
"""Settings that have no part in what a run learns, so that a resumed one may have others."""


class RunFolder:
    """The output folder of a run. Whatever is written is written aside and renamed, so that nothing is ever half."""

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def prepared(cls, accelerator: "Accelerator", settings: TrainingSettings) -> "RunFolder":
        """Return the settings' folder, empty or with a checkpoint to resume; raise a `SettingsError` otherwise."""
        folder = cls(Path(settings.run.output_dir or "."))
        if settings.run.resume:
            if not checkpoints(folder.path):
                raise SettingsError(f"There is nothing to resume: {folder.path} has no checkpoint.")
            if not settings.run.resume_changed:
                folder.check_settings(settings)
        elif folder.is_taken() and not (settings.run.overwrite_output_dir and (folder.path / SETTINGS_FILE).is_file()):
            raise SettingsError(
                f"--output-dir {folder.path} is not empty. Choose another folder, go on with --resume, "
                "or begin an earlier run anew with --overwrite-output-dir."
            )
        # Nobody may look before everyone has, or one process would find what another has just written.
        accelerator.wait_for_everyone()
        return folder

    def check_settings(self, settings: TrainingSettings) -> None:
        """Raise a `SettingsError` where settings differ from those that the run was begun with."""
        now, before = settings.flat(), read_recipe(str(self.path / SETTINGS_FILE)).flat()
        changed = [name for name in now if name not in MAY_CHANGE and now[name] != before[name]]
        if changed:
            told = "".join(f"\n    {name}: {before[name]} before, {now[name]} now" for name in changed)
            raise SettingsError(
                f"The run in {self.path} was begun with other settings:{told}\nLeave them as they were, or add "
                "--resume-changed to go on all the same."
            )

    def check_data(self, data: dict[str, Any]) -> None:
        """Raise a `SettingsError` where the data differs from that which the run was begun with."""
        before = json.loads((self.path / RECORD_FILE).read_text("utf-8"))["data"]
        for name in ("training_sha256", "validation_sha256"):
            if before.get(name) != data[name]:
                part = name.removesuffix("_sha256")
                raise SettingsError(
                    f"The run in {self.path} was begun with other {part} conversations: "
                    f"{before.get(f'{part}_conversations')} before, {data[f'{part}_conversations']} now. Name the same "
                    "data, or add --resume-changed to go on all the same."
                )

    def is_taken(self) -> bool:
        """Return whether something stands where the folder is to be."""
        return self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))

    def begin(
        self,
        settings: TrainingSettings,
        overview: dict[str, Any],
        data: dict[str, Any],
        tokenizer: Any,
        steps_done: int,
    ) -> None:
        """Write down what is about to run, in the place of an earlier run or of what it did after its checkpoint."""
        self.path.mkdir(parents=True, exist_ok=True)
        if settings.run.resume:
            self._cut_log(steps_done)
        elif settings.run.overwrite_output_dir:
            for entry in self.path.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry)
                elif entry.name not in BAD_ROWS_FILES:
                    entry.unlink()
        self._write(SETTINGS_FILE, yaml.safe_dump(recipe_of(settings), allow_unicode=True, sort_keys=False))
        self.record: dict[str, Any] = {"data": data, "overview": overview, "environment": environment()}
        self._write(RECORD_FILE, json.dumps(self.record, ensure_ascii=False, indent=2))
        tokenizer.save_pretrained(self.path)

    def load_tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.path)

    def _cut_log(self, steps_done: int) -> None:
        log = self.path / LOG_FILE
        kept = []
        # Not by splitlines(), for which a line may also end within what somebody said.
        for line in log.read_text("utf-8").split("\n") if log.is_file() else []:
            # The last line of a killed run may be torn.
            with contextlib.suppress(json.JSONDecodeError):
                if json.loads(line)["step"] <= steps_done:
                    kept.append(line + "\n")
        self._write(LOG_FILE, "".join(kept))

    def log(self, line: dict[str, Any]) -> None:
        """Add a line to the log."""
        with (self.path / LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def save_checkpoint(self, accelerator: "Accelerator", step: int, *, limit: int) -> None:
        """Save all that resuming needs."""
        save_checkpoint(accelerator, self.path, step, limit=limit)

    def load_checkpoint(self, accelerator: "Accelerator") -> None:
        """Load the last checkpoint that is as it was written; raise a `SettingsError` if there is none."""
        for checkpoint in checkpoints(self.path):
            problem = damage(checkpoint)
            if problem is None:
                accelerator.load_state(str(checkpoint))
                return
            if accelerator.is_main_process:
                print(f"{checkpoint.name} is damaged ({problem}); trying the one before.", file=sys.stderr)
        raise SettingsError(f"No checkpoint in {self.path} is whole. Begin anew with --overwrite-output-dir.")

    def publish(self, model: Any, tokenizer: Any) -> None:
        """Put the model and its tokenizer into the folder, as `from_pretrained` reads them."""
        aside = self.path / "publishing.partial"
        shutil.rmtree(aside, ignore_errors=True)
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        for file in sorted(aside.iterdir()):
            os.replace(file, self.path / file.name)
        aside.rmdir()

    def finish(self, progress: "Progress", *, finished: bool) -> None:
        """Draw the curves, complete the record, and say what was written and what comes next."""
        from rich.console import Console

        # Beside the progress bar: standard output is for what a command is asked for.
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        self.record |= {
            "finished": finished,
            "steps_taken": progress.step,
            "minutes": round(progress.seconds / 60, 2),
            "target_tokens_per_second": round(progress.target_tokens / max(progress.training_seconds, 1e-9)),
            "best": {"step": progress.best_step, **(progress.best_evaluation or {})},
        }
        self._write(RECORD_FILE, json.dumps(self.record, ensure_ascii=False, indent=2))
        if not finished:
            console.print(f"\nStopped after step {progress.step}; nothing is lost. Go on with")
            console.print(f"    chatformer train --output-dir {self.path} --resume")
            return
        from .curves import draw_curves

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

    def _write(self, name: str, text: str) -> None:
        aside = self.path / f"{name}.partial"
        aside.write_text(text, "utf-8")
        os.replace(aside, self.path / name)


def is_finished(folder: Path) -> bool:
    """Return whether a training in `folder` came to its end."""
    try:
        return bool(json.loads((folder / RECORD_FILE).read_text("utf-8")).get("finished"))
    except (OSError, ValueError):
        return False


def recipe_of(settings: TrainingSettings) -> dict[str, Any]:
    """Return the settings as a recipe that runs the same again."""
    left_out = ("recipe", "minutes", "resume", "resume_changed", "overwrite_output_dir", "dry_run", "verify_resume")
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in settings.flat().items()
        if name not in left_out
    }


def describe_data(training: Any, validation: Any, settings: TrainingSettings) -> dict[str, Any]:
    """Return what the model was trained on, in figures and a fingerprint."""
    return {
        "sources": [Path(source).name if Path(source).exists() else source for source in settings.data.data],
        "training_conversations": len(training),
        "validation_conversations": len(validation),
        "training_sha256": content_digest(training),
        "validation_sha256": content_digest(validation),
    }


def environment() -> dict[str, str]:
    """Return the versions that a run depends on."""
    packages = ("chatformer", "torch", "transformers", "tokenizers", "accelerate", "datasets")
    return {"python": platform.python_version(), "system": platform.system(), "machine": platform.machine()} | {
        package: version(package) for package in packages
    }
