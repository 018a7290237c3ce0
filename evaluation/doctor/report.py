"""The findings in the terminal and in a file."""

import dataclasses
from pathlib import Path
from typing import Any

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from chatformer.configuration.evaluation import DoctorSettings
from chatformer.data.preparation import local_files
from chatformer.evaluation.own_data import own_files, run_settings
from chatformer.storage.keeping import check_kept, model_files
from chatformer.storage.names import DOCTOR_FILE
from chatformer.storage.printing import plain_console
from chatformer.storage.writing import json_line, json_text, write_text

from .diagnosis import Diagnosis
from .findings import Finding
from .lengths import Lengths, draw_lengths, length_bins

PICTURE_FILE = "lengths.png"
BAD_ROWS_FILE = "bad_rows.jsonl"

MARKS = {"problem": ("✗", "red"), "hint": ("!", "yellow"), "good": ("✓", "green")}
"""The mark before a finding, the worst first."""

BAR_WIDTH = 24


def show(diagnosis: Diagnosis) -> None:
    """Print the findings, the worst first, and a histogram of lengths."""
    console = plain_console()
    for title, findings in diagnosis.sections.items():
        console.print(f"\n{title}", style="bold")
        grid = Table.grid(padding=(0, 1))
        grid.add_column()
        # Otherwise rich replaces a wide letter at the end of a line.
        grid.add_column(overflow="fold")
        for severity, (mark, color) in MARKS.items():
            for finding in findings:
                if finding.severity == severity:
                    grid.add_row(Text(mark, color), formatted(finding, color))
        console.print(Padding.indent(grid, 2))
        if title == "The data" and diagnosis.lengths is not None:
            console.print(Padding(histogram(diagnosis.lengths), (1, 0, 0, 2)))
    counts = diagnosis.severities()
    problems, hints = (
        f"{counts[name] or 'no'} {name}{'' if counts[name] == 1 else 's'}" for name in ("problem", "hint")
    )
    summary = f"\n{problems[0].upper()}{problems[1:]}, {hints}"
    console.print(Text.assemble((summary, "bold"), f"; {counts['good']} checks found nothing wrong."))


def formatted(finding: Finding, color: str) -> Text:
    """A finding for the terminal: one line if nothing is wrong, otherwise with examples and what to do."""
    if finding.severity == "good":
        return Text.assemble(f"{finding.title}.", (f" {finding.found}" if finding.found else "", "dim"))
    text = Text.assemble((finding.title, "bold"), f"\n{finding.found}")
    for example in finding.examples:
        text.append(f"\n· {example}", "dim")
    return text.append("\nWhat to do: ", color).append(finding.what_to_do)


def check_inputs_are_kept(settings: DoctorSettings) -> None:
    """Raise a `StorageError` if a file to write is one of those that are read."""
    if settings.output_dir is None:
        return
    outputs = [Path(settings.output_dir) / name for name in (DOCTOR_FILE, BAD_ROWS_FILE, PICTURE_FILE)]
    inputs: dict[str, list[Path]] = {
        "what is examined": local_files(settings.subject),
        "--data": local_files(settings.data),
        "--validation-data": local_files(settings.validation_data),
    }
    for folder in filter(Path.is_dir, map(Path, settings.subject)):
        inputs["the data of the run"] = own_files(run_settings(folder))
        inputs[f"the model in {folder}"] = [*model_files(folder, command="doctor")]
    check_kept(outputs, inputs, flag="--output-dir")


def histogram(lengths: Lengths) -> Table:
    bins = length_bins(lengths)
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column(lengths.unit, justify="right")
    for name in ("sources", "replies"):
        table.add_column(name, justify="right")
        table.add_column("", width=BAR_WIDTH)
    most = max(max(sources, replies) for _, _, sources, replies in bins)
    for low, high, *counts in bins:
        cells = [f"{low}" if low == high else f"{low}-{high}"]
        for count in counts:
            cells += [f"{count:,}", "█" * round(BAR_WIDTH * count / most) or ("▏" if count else "")]
        table.add_row(*cells)
    return table


def write(diagnosis: Diagnosis, settings: DoctorSettings) -> None:
    """Write the findings, the picture and the bad rows into the output folder."""
    assert settings.output_dir is not None
    folder = Path(settings.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    report = {
        "subject": diagnosis.subject,
        "severities": dict(diagnosis.severities()),
        "findings": [
            {"section": title, **dataclasses.asdict(finding)}
            for title, findings in diagnosis.sections.items()
            for finding in findings
        ],
        "lengths": lengths_in(diagnosis.lengths),
        "settings": dataclasses.asdict(settings),
    }
    files = [DOCTOR_FILE]
    if diagnosis.bad_rows:
        write_text(folder / BAD_ROWS_FILE, "".join(map(json_line, diagnosis.bad_rows)))
        files.append(BAD_ROWS_FILE)
    if diagnosis.lengths is not None:
        if draw_lengths(diagnosis.lengths, folder / PICTURE_FILE, limits=diagnosis.limits):
            files.append(PICTURE_FILE)
        else:
            print("(no picture: pip install 'chatformer[plots]' draws it)")
    write_text(folder / DOCTOR_FILE, json_text(report, indent=1))
    print(f"Written to {folder}: {', '.join(files)}")


def lengths_in(lengths: Lengths | None) -> dict[str, Any] | None:
    """The histogram for the file."""
    if lengths is None:
        return None
    names = ("from", "to", "sources", "replies")
    return {"unit": lengths.unit, "bins": [dict(zip(names, each, strict=True)) for each in length_bins(lengths)]}
