"""`chatformer doctor`: what is wrong with data or a model, and what to do, in the terminal and in a file."""

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from chatformer.training.settings import DoctorSettings, SettingsError, TokenizerSettings

if TYPE_CHECKING:
    import datasets
    from rich.table import Table
    from rich.text import Text

    from chatformer.training.doctor import Conversations, Finding, Lengths
    from chatformer.training.model_doctor import RunLog

OUTPUT_FILE = "doctor.json"
PICTURE_FILE = "lengths.png"
BAD_ROWS_FILE = "bad_rows.jsonl"

MARKS = {"problem": ("✗", "red"), "hint": ("!", "yellow"), "good": ("✓", "green")}
"""What stands before a finding, the worst first."""

BAR_WIDTH = 24


def main(arguments: Sequence[str], program: str = "chatformer doctor") -> int:
    """Look at what a command line names; return 1 where a problem was found, 2 where nothing could be looked at."""
    settings = tyro.cli(DoctorSettings, args=list(arguments), prog=program)
    try:
        check(settings)
        diagnosis = diagnosis_of_model(settings) if is_model(settings) else diagnosis_of_data(settings)
        show(diagnosis)
        if settings.output_dir is not None:
            write(diagnosis, settings)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if diagnosis.severities()["problem"] else 0


@dataclasses.dataclass
class Diagnosis:
    """Hold what was found, by the title of what was looked at."""

    subject: str
    sections: "dict[str, list[Finding]]" = dataclasses.field(default_factory=dict)
    lengths: "Lengths | None" = None
    limits: tuple[int | None, int | None] = (None, None)
    bad_rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def severities(self) -> Counter[str]:
        return Counter(finding.severity for findings in self.sections.values() for finding in findings)


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


def diagnosis_of_data(settings: DoctorSettings) -> Diagnosis:
    """Look at conversations."""
    from chatformer.data.messages import exchanges
    from chatformer.data.preparation import message_texts
    from chatformer.data.tokenizer import train_tokenizer
    from chatformer.training.doctor import Conversations, check_bad_rows, check_leaks

    limits = settings.max_source_tokens, settings.max_target_tokens
    diagnosis = Diagnosis(" ".join(settings.subject), limits=limits)
    dataset, diagnosis.bad_rows = load(settings.subject, settings)
    findings = check_bad_rows(
        diagnosis.bad_rows, len(dataset) + len(diagnosis.bad_rows), left_out=settings.skip_bad_rows
    )
    tokenizer = None
    if limits != (None, None):
        # A limit counts tokens, and these are the ones that training would make.
        has_history = any(len(history) > 1 for made in dataset for history, _ in exchanges(made["messages"]))
        tokenizer = train_tokenizer(message_texts(dataset), TokenizerSettings.vocab_size, has_history=has_history)
    conversations = Conversations(dataset)
    findings += data_findings(conversations, diagnosis, tokenizer)
    if settings.validation_data:
        validation, bad_rows = load(settings.validation_data, settings)
        diagnosis.bad_rows += bad_rows
        findings += check_bad_rows(bad_rows, len(validation) + len(bad_rows), left_out=settings.skip_bad_rows)
        findings += check_leaks(conversations, Conversations(validation))
    diagnosis.sections["The data"] = findings
    return diagnosis


def data_findings(conversations: "Conversations", diagnosis: Diagnosis, tokenizer: Any) -> "list[Finding]":
    """Look at conversations for themselves, and leave their lengths in the diagnosis."""
    from chatformer.training.doctor import check_conversations, check_lengths, lengths_of

    diagnosis.lengths = lengths_of(conversations, tokenizer)
    source_limit, target_limit = diagnosis.limits
    return [
        *check_conversations(conversations),
        *check_lengths(
            conversations, diagnosis.lengths, max_source_tokens=source_limit, max_target_tokens=target_limit
        ),
    ]


def load(data: tuple[str, ...], settings: DoctorSettings) -> "tuple[datasets.Dataset, list[dict[str, Any]]]":
    """Conversations, and the rows that are none, as they are listed in a file."""
    from chatformer.data.preparation import read_conversations

    loaded = read_conversations(data, settings, skip_bad_rows=True)
    return loaded.conversations, [dataclasses.asdict(row) for row in loaded.bad_rows]


def diagnosis_of_model(settings: DoctorSettings) -> Diagnosis:
    """Look at a model, at the data and the log of its run where they are at hand, and try it."""
    from chatformer.cli.evaluate import own_data, run_settings
    from chatformer.training.doctor import Conversations, Finding, check_bad_rows, check_leaks, check_size
    from chatformer.training.model_doctor import RunLog, check_log, check_vocabulary_size

    (name,) = settings.subject
    diagnosis = Diagnosis(name)
    model, tokenizer, missing = load_model(name, settings)
    run, log = run_settings(Path(name)), RunLog.of(Path(name))
    own = run.tokenizer if run is not None else None
    diagnosis.limits = (
        settings.max_source_tokens or (own.max_source_tokens if own else None),
        settings.max_target_tokens or (own.max_target_tokens if own else None),
    )
    training = tried = None
    about_data: list[Finding] = []
    try:
        training, tried = own_data(name, run)
    except (OSError, ValueError) as error:
        about_data.append(
            Finding(
                check="training data",
                severity="hint",
                title="The training data is not at hand",
                found=f"It was not looked at: {error}",
                what_to_do="Put it back where it was, or look at the data alone: `chatformer doctor DATA`.",
            )
        )
    if settings.data:
        tried, diagnosis.bad_rows = load(settings.data, settings)
        num_rows = len(tried) + len(diagnosis.bad_rows)
        about_data += check_bad_rows(diagnosis.bad_rows, num_rows, left_out=settings.skip_bad_rows)
    if tried is not None and tokenizer.chat_template is not None:
        about_data += unread_findings(tokenizer, tried)
    if training is not None:
        known = Conversations(training)
        about_data += data_findings(known, diagnosis, tokenizer)
        assert diagnosis.lengths is not None
        num_tokens = int(diagnosis.lengths.targets.sum())
        about_data += check_size(sum(weight.numel() for weight in model.parameters()), num_tokens)
        about_data += check_vocabulary_size(len(tokenizer), num_tokens)
        if tried is not None and len(tried):
            about_data += check_leaks(known, Conversations(tried))
    diagnosis.sections["The data"] = about_data
    diagnosis.sections["The model"] = model_findings(
        model, tokenizer, missing, training, tried, log, diagnosis.limits, settings.max_exchanges
    )
    if log is not None:
        diagnosis.sections["The training"] = check_log(log)
    return diagnosis


def unread_findings(tokenizer: Any, tried: "datasets.Dataset") -> "list[Finding]":
    """Find that the model is tried on what it does not read."""
    from chatformer.data.unread import unread_part
    from chatformer.training.doctor import Finding

    unread = unread_part(tokenizer, tried)
    if unread is None:
        return []
    return [
        Finding(
            check="unread",
            severity="hint",
            title="A part of the data is not read",
            found=f"What it is tried on has {unread}, which the model's chat template leaves out.",
            what_to_do="Train on conversations that have such messages, too; a model of single questions is to be "
            "tried on single questions.",
        )
    ]


def load_model(name: str, settings: DoctorSettings) -> tuple[Any, Any, list[str]]:
    """Return a model in float32, its tokenizer, and the names of weights that its files did not have."""
    import datasets
    import torch
    import transformers

    # It also makes Chatformers known to AutoModelForSeq2SeqLM.
    from chatformer.storage.model_folder import ModelFolder

    # What transformers does not find it asks the Hub for again and again, for a minute where there is no network.
    folder = ModelFolder.find(name, settings.revision).folder
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    # What it would say of weights that are missing is said among the findings.
    transformers.utils.logging.set_verbosity_error()
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model, report = transformers.AutoModelForSeq2SeqLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        return model.to(device).eval(), tokenizer, sorted(report["missing_keys"])
    # Behind its first line transformers gives advice that is not about this command.
    except (OSError, ValueError, RuntimeError) as error:
        raise SettingsError(f"{name} cannot be loaded as a model: {str(error).splitlines()[0]}") from error


def model_findings(
    model: Any,
    tokenizer: Any,
    missing: list[str],
    training: "datasets.Dataset | None",
    tried: "datasets.Dataset | None",
    log: "RunLog | None",
    limits: tuple[int | None, int | None],
    max_exchanges: int,
) -> "list[Finding]":
    """Look at a model's parts, and try it on conversations where there are some and it can be tried."""
    from chatformer.cli.evaluate import questions_and_answers
    from chatformer.data.exchanges import encode_exchanges
    from chatformer.training.doctor import Finding
    from chatformer.training.model_doctor import check_behaviour, check_parts
    from chatformer.training.thread import check_thread

    longest = [limit or sys.maxsize for limit in limits]
    findings = check_parts(model, tokenizer, missing)
    reason, advice = "", "Give conversations with --data."
    if any(finding.severity == "problem" for finding in findings):
        reason, advice = "A model in this state has nothing to say.", "Mend what is named above first."
    elif tried is None or not len(tried):
        reason = "There are no conversations to try it on."
    else:
        encoded = encode_exchanges(tried, tokenizer, *longest)
        if not len(encoded):
            reason, advice = "Every reply is too long to try it on.", "Raise --max-target-tokens."
    if reason:
        untried = Finding(check="trial", severity="hint", title="It was not tried", found=reason, what_to_do=advice)
        return [*findings, untried]
    known = None
    if training is not None:
        # Some from all over the data.
        step = -(-len(training) // max_exchanges)
        known = encode_exchanges(training.select(range(0, len(training), step)), tokenizer, *longest)
    findings += check_behaviour(
        model,
        tokenizer,
        encoded,
        max_exchanges=max_exchanges,
        log=log,
        known=known,
        training=None if training is None else questions_and_answers(training),
    )
    return findings + check_thread(
        model,
        tokenizer,
        tried if training is None else training,
        max_source_tokens=limits[0],
        other_topics_fraction=None if log is None else log.settings.data.other_topics_fraction,
    )


def show(diagnosis: Diagnosis) -> None:
    """Print the findings, the worst first, and how long sources and replies are."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for title, findings in diagnosis.sections.items():
        console.print(f"\n[bold]{title}[/]")
        grid = Table.grid(padding=(0, 1))
        for severity, (mark, color) in MARKS.items():
            for finding in findings:
                if finding.severity == severity:
                    grid.add_row(Text(mark, color), told(finding, color))
        console.print(Padding.indent(grid, 2))
        if title == "The data" and diagnosis.lengths is not None:
            console.print(Padding(histogram(diagnosis.lengths), (1, 0, 0, 2)))
    counts = diagnosis.severities()
    problems, hints = (
        f"{counts[name] or 'no'} {name}{'' if counts[name] == 1 else 's'}" for name in ("problem", "hint")
    )
    console.print(
        f"\n[bold]{problems[0].upper()}{problems[1:]}, {hints}[/]; {counts['good']} checks found nothing wrong."
    )


def told(finding: "Finding", color: str) -> "Text":
    """Return a finding as the terminal has it: one line where all is well, otherwise what to do as well."""
    from rich.text import Text

    if finding.severity == "good":
        return Text.assemble(f"{finding.title}.", (f" {finding.found}" if finding.found else "", "dim"))
    text = Text.assemble((finding.title, "bold"), f"\n{finding.found}")
    for example in finding.examples:
        text.append(f"\n· {example}", "dim")
    return text.append("\nWhat to do: ", color).append(finding.what_to_do)


def histogram(lengths: "Lengths") -> "Table":
    from rich.table import Table

    from chatformer.training.doctor import length_bins

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
    from chatformer.training.doctor import draw_lengths

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
    written = [OUTPUT_FILE]
    if diagnosis.bad_rows:
        rows = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in diagnosis.bad_rows)
        replace(folder / BAD_ROWS_FILE, rows)
        written.append(BAD_ROWS_FILE)
    if diagnosis.lengths is not None:
        if draw_lengths(diagnosis.lengths, folder / PICTURE_FILE, limits=diagnosis.limits):
            written.append(PICTURE_FILE)
        else:
            print("(no picture: pip install 'chatformer[plots]' draws it)")
    replace(folder / OUTPUT_FILE, json.dumps(report, ensure_ascii=False, indent=1) + "\n")
    print(f"Written to {folder}: {', '.join(written)}")


def lengths_in(lengths: "Lengths | None") -> dict[str, Any] | None:
    """Return the histogram as the file has it."""
    from chatformer.training.doctor import length_bins

    if lengths is None:
        return None
    names = ("from", "to", "sources", "replies")
    return {"unit": lengths.unit, "bins": [dict(zip(names, each, strict=True)) for each in length_bins(lengths)]}


def replace(file: Path, text: str) -> None:
    """Write a text aside and put it in its place, so that it is never half."""
    aside = file.with_name(f"{file.name}.partial")
    aside.write_text(text, "utf-8")
    aside.replace(file)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "python -m chatformer.cli.doctor"))
