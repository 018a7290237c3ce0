"""What a training, an evaluation or a conversion recorded in a model's folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .explaining import StorageError
from .names import (
    CONFIG_FILE,
    CONVERSION_FILE,
    CURVES_FILE,
    EVALUATION_FILE,
    LOG_FILE,
    RECORD_FILE,
    SETTINGS_FILE,
)
from .reading import read_json_lines, read_structure


@dataclass(frozen=True, kw_only=True)
class Records:
    """The content of each file, empty if there is no such file; in a repository on the Hub it may be anything."""

    config: dict[str, Any]
    settings: dict[str, Any]
    record: dict[str, Any]
    log: list[dict[str, Any]]
    evaluation: dict[str, Any]
    conversion: dict[str, Any]
    has_curves: bool

    @classmethod
    def read(cls, folder: Path) -> "Records":
        """Read the records of a folder; raise a `StorageError` that names a broken file."""

        def structure(name: str) -> dict[str, Any]:
            return read_structure(folder / name) if (folder / name).is_file() else {}

        return cls(
            config=structure(CONFIG_FILE),
            settings=structure(SETTINGS_FILE),
            record=structure(RECORD_FILE),
            log=read_json_lines(folder / LOG_FILE),
            evaluation=structure(EVALUATION_FILE),
            conversion=structure(CONVERSION_FILE),
            has_curves=(folder / CURVES_FILE).is_file(),
        )

    def questions(self) -> list[str]:
        """The questions of the samples in the log, each once, the latest line first."""
        return list(dict.fromkeys(sample["source"] for line in reversed(self.log) for sample in samples_in(line)))


def samples_in(line: dict[str, Any]) -> list[dict[str, str]]:
    """The conversations in a line of a log, each with its source and the reply."""
    samples = line.get("samples")
    return [
        {name: sample[name] for name in ("source", "reply")}
        for sample in (samples if isinstance(samples, list) else [])
        if isinstance(sample, dict) and all(isinstance(sample.get(name), str) for name in ("source", "reply"))
    ]


def is_finished(folder: Path) -> bool:
    """True if the training that wrote `folder` has ended."""
    try:
        return bool(read_structure(folder / RECORD_FILE).get("finished"))
    except StorageError:
        return False
