"""The figures of a model in a file and in the terminal."""

import dataclasses
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from chatformer.configuration.declaring import SettingsError
from chatformer.data.exchanges import EncodedExchanges, content_digest
from chatformer.storage.environment import environment
from chatformer.storage.printing import plain_console
from chatformer.storage.writing import json_text, write_text

from .baselines import Comparison
from .figures import Evaluation, ReplyFigures
from .prose import TOLD_APART, ProseComparison, prose_table
from .scoring import Outcome
from .shortening import shortened

NUM_SAMPLES = 10
SHOWN = 400
"""Characters of a source, a reply or a reference that are printed; the file has them whole."""

ROWS = {
    "loss": ("loss (nats per token)", ".3f"),
    "perplexity": ("perplexity", ".1f"),
    "bits_per_character": ("bits per character", ".3f"),
    "source_gain": ("  saved by listening", ".3f"),
    "history_gain": ("  saved by remembering", ".3f"),
    "num_replies": ("replies", "d"),
    "bleu": ("BLEU", ".1f"),
    "chrf": ("chrF", ".1f"),
    "exact_match": ("exact match, %", ".1f"),
    "distinct_1": ("distinct-1, %", ".1f"),
    "distinct_2": ("distinct-2, %", ".1f"),
    "repeated_words": ("loops or doubled words, %", ".1f"),
    "copied_replies": ("copied from training, %", ".1f"),
    "most_frequent_reply": ("most frequent reply, %", ".1f"),
    "distinct_replies": ("different replies", "d"),
}
"""The figures in the order of the table, with their titles and formats."""

FIGURES_BY_TURNS = ("bits_per_character", "history_gain", "num_replies", "chrf", "exact_match")
"""The figures that the table by number of turns shows."""


def figures_in(comparison: Comparison, by_turns: dict[str, tuple[int, Evaluation]]) -> dict[str, Any]:
    """The figures for the file."""

    def by_group(figures: dict[str, Any]) -> dict[str, Any]:
        return {group: None if each is None else dataclasses.asdict(each) for group, each in figures.items()}

    return {
        "exchanges": {group: len(indices) for group, indices in comparison.groups.items()},
        "figures": by_group(comparison.model),
        "baselines": {name: by_group(figures) for name, figures in comparison.baselines.items()},
        "by_turns": {
            length: {"exchanges": count, **dataclasses.asdict(figures)} for length, (count, figures) in by_turns.items()
        },
    }


def data_in(conversations: Any, exchanges: EncodedExchanges, training: Any | None) -> dict[str, Any]:
    """The data that the model was measured on, and its training data, for the file."""
    return {
        "data": {
            "conversations": len(conversations),
            "exchanges": len(exchanges),
            "left_out_as_too_long": exchanges.num_too_long,
            "sha256": content_digest(conversations),
        },
        "training_data": None
        if training is None
        else {"conversations": len(training), "sha256": content_digest(training)},
    }


def items(exchanges: EncodedExchanges, outcome: Outcome, comparison: Comparison) -> list[dict[str, Any]]:
    """Each exchange with its loss and, if there is one, its reply."""
    seen_indices = set(comparison.groups.get("seen", ()))
    exchange_items = []
    for index, (history, reference) in enumerate(zip(exchanges.histories, exchanges.replies, strict=True)):
        item: dict[str, Any] = {
            "history": history,
            "reference": reference,
            "tokens": int(exchanges.target_lengths[index]),
            "nats": float(outcome.nats[index]),
        }
        if "seen" in comparison.groups:
            item["seen"] = index in seen_indices
        if index < len(outcome.replies):
            item["reply"] = outcome.replies[index]
            item |= {name: replies[index] for name, replies in comparison.baseline_replies.items()}
        exchange_items.append(item)
    return exchange_items


def samples(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A few items with replies, from all over the data."""
    items_with_reply = [item for item in items if "reply" in item]
    count = min(NUM_SAMPLES, len(items_with_reply))
    return [items_with_reply[number * len(items_with_reply) // count] for number in range(count)]


def versions() -> dict[str, str]:
    """The versions of the packages that the figures depend on."""
    packages = environment()
    for package in ("evaluate", "sacrebleu", "scikit-learn", "ctranslate2"):
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            continue
    return packages


def show(
    model: str,
    comparison: Comparison,
    by_turns: dict[str, tuple[int, Evaluation]],
    media: Sequence[Table],
    prose: ProseComparison | None,
    samples: list[dict[str, Any]],
    signatures: dict[str, str],
    notes: list[str],
) -> None:
    """Print the tables, the meaning of their words, and a few replies."""
    console = plain_console()
    console.print(table(model, comparison))
    if by_turns:
        console.print(table_by_turns(by_turns, with_num_replies=comparison.has_fewer_replies))
    for media_table in media:
        console.print(media_table)
    if prose is not None:
        console.print(prose_table(prose))
        console.print(TOLD_APART, style="dim", soft_wrap=True)
    if "seen" in comparison.groups:
        console.print("seen: the reference answer is in the training data; unseen: it is not.", style="dim")
    if samples:
        console.print("distinct-n: different words, and pairs of them, split at white space, over all.", style="dim")
        console.print(
            "loops or doubled words: a word, or two, twice in a row, or three that occur twice in a reply.", style="dim"
        )
    for name, signature in signatures.items():
        console.print(f"{ROWS[name][0]}: {signature}", style="dim", soft_wrap=True)
    for note in notes:
        console.print(Text.assemble(("note:", "yellow"), f" {note}"), soft_wrap=True)
    if samples:
        console.print("\nSome of the replies:")
    for sample in samples:
        source, reply, reference = (
            shortened(text, SHOWN) for text in (sample["history"][-1]["content"], sample["reply"], sample["reference"])
        )
        shown = Text.assemble(f"  {source}\n    → ", (reply, "bold"), "  ", (f"(reference: {reference})", "dim"))
        console.print(shown, soft_wrap=True)
    console.print()


def table(model: str, comparison: Comparison) -> Table:
    columns: dict[str, ReplyFigures | None] = {**comparison.model}
    columns |= {baseline: figures["all"] for baseline, figures in comparison.baselines.items()}
    grid = Table(title=model, title_justify="left")
    grid.add_column("")
    for name in columns:
        grid.add_column(name, justify="right", max_width=8)
    counts = [len(comparison.groups[name]) if name in comparison.groups else "" for name in columns]
    grid.add_row("exchanges", *map(str, counts), end_section=True)
    are_fewer = comparison.has_fewer_replies
    for name, (title, form) in ROWS.items():
        if name == "num_replies":
            grid.add_section()
        values = [getattr(figures, name, None) for figures in columns.values()]
        if any(value is not None for value in values) and (name != "num_replies" or are_fewer):
            grid.add_row(title, *(figure_in(value, form) for value in values))
    return grid


def table_by_turns(by_turns: dict[str, tuple[int, Evaluation]], *, with_num_replies: bool) -> Table:
    grid = Table(title="by number of questions so far", title_justify="left")
    grid.add_column("")
    for length in by_turns:
        grid.add_column(length, justify="right")
    grid.add_row("exchanges", *(str(count) for count, _ in by_turns.values()), end_section=True)
    for name in FIGURES_BY_TURNS:
        if name == "num_replies" and not with_num_replies:
            continue
        title, form = ROWS[name]
        grid.add_row(title, *(figure_in(getattr(figures, name), form) for _, figures in by_turns.values()))
    return grid


def figure_in(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def write(report: dict[str, Any], file: Path) -> None:
    """Write the report; raise a `SettingsError` if the file cannot be written."""
    try:
        write_text(file, json_text(report, indent=1))
    except OSError as error:
        raise SettingsError(f"{file} cannot be written ({error.strerror}). Give another --output-file.") from error
