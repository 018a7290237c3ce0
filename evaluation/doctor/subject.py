"""What is looked at: data, or a model."""

from pathlib import Path

from chatformer.training.settings import DoctorSettings, SettingsError


def check(settings: DoctorSettings) -> None:
    """Raise a `SettingsError` for settings that cannot be."""
    if not settings.subject:
        raise SettingsError("Say what to look at: a file of conversations, or the folder of a run or a model.")
    for name in ("max_source_tokens", "max_target_tokens", "max_exchanges"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise SettingsError(f"--{name.replace('_', '-')} ({value}) must be at least 1.")
    if is_model(settings):
        if len(settings.subject) > 1:
            raise SettingsError(f"One model at a time can be looked at: {' '.join(settings.subject)} are several.")
        if settings.validation_data:
            raise SettingsError("--validation-data goes with data; what a model is to be tried on is its --data.")


def is_model(settings: DoctorSettings) -> bool:
    """Return whether the subject is a model: with --data it is, and a folder is no data."""
    return bool(settings.data) or any(Path(name).is_dir() for name in settings.subject)
