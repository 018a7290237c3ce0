"""The data that a run was trained and validated on, read again from where it was."""

from pathlib import Path
from typing import Any

from chatformer.configuration.declaring import SettingsError
from chatformer.configuration.recipes import settings_of_run
from chatformer.configuration.training import TrainingSettings
from chatformer.data.arrow import messages_of
from chatformer.data.exchanges import content_digest
from chatformer.data.messages import exchanges
from chatformer.data.preparation import conversations_of, local_files
from chatformer.storage.names import RECORD_FILE, SETTINGS_FILE
from chatformer.storage.reading import read_structure


def run_settings(folder: Path) -> TrainingSettings | None:
    """The settings of the run that trained the model in `folder`; None if the folder does not have them."""
    return settings_of_run(folder) if (folder / SETTINGS_FILE).is_file() else None


def own_files(run: TrainingSettings | None) -> list[Path]:
    """The files of this machine that a run was trained and validated on."""
    return [] if run is None else local_files([*run.data.data, *run.data.validation_data])


def own_data(model: str, run: TrainingSettings | None) -> tuple[Any, Any]:
    """The data that the run was trained and validated on; raise a `ValueError` if it has changed."""
    if run is None:
        raise SettingsError(f"{model} has no {SETTINGS_FILE}, which would say what it was trained on.")
    # Bad rows were listed when the run began.
    training, validation = (loaded.conversations for loaded in conversations_of(run))
    record = read_structure(Path(model) / RECORD_FILE)
    if content_digest(training) != record["data"]["training_sha256"]:
        raise SettingsError(f"{' '.join(run.data.data)} has changed since {model} was trained on it.")
    return training, validation


def questions_and_answers(conversations: Any) -> list[tuple[str, str]]:
    """Each turn that was answered, with its answer."""
    return [
        (history[-1]["content"], answer)
        for messages in messages_of(conversations)
        for history, answer in exchanges(messages)
    ]
