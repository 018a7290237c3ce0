"""Whether data or a model is examined."""

import dataclasses
from pathlib import Path

from chatformer.configuration.data import ReadingSettings
from chatformer.configuration.declaring import SettingsError, flag, given, place_outside_the_hub
from chatformer.configuration.evaluation import DoctorSettings


def check(settings: DoctorSettings) -> None:
    """Raise a `SettingsError` for settings that are not possible."""
    if not settings.subject:
        raise SettingsError("Say what to look at: a file of conversations, or the folder of a run or a model.")
    if is_model(settings):
        if len(settings.subject) > 1:
            raise SettingsError(
                f"One model at a time can be examined; these are {len(settings.subject)}: {' '.join(settings.subject)}."
            )
        if settings.validation_data:
            raise SettingsError(
                "--validation-data goes with data. To try a model on conversations, give them as --data."
            )


def is_model(settings: DoctorSettings) -> bool:
    """True if the subject is a model: a folder, or anything that --data is given for."""
    return bool(settings.data) or any(Path(name).is_dir() for name in settings.subject)


def without_effect(settings: DoctorSettings) -> list[str]:
    """A sentence for each setting that is given and is for a model, or for data, and not for this subject."""
    reading = {field.name for field in dataclasses.fields(ReadingSettings)} - {"data"}
    if not is_model(settings):
        names = ["max_exchanges", "device"]
        if not any(map(place_outside_the_hub, settings.subject)):
            # Of other data the declaration says it.
            names.append("revision")
        return [f"{flag(name)} has no effect on data: it is for models." for name in names if name in given(settings)]
    if settings.data:
        return []
    return [f"{flag(name)} has no effect on a model without --data." for name in sorted(reading & given(settings))]
