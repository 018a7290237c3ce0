"""
`chatformer evaluate`: the figures of a model beside free baselines, in the terminal and in a file.

    accelerate launch -m chatformer.cli.evaluate runs/korean
"""

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from chatformer.training.settings import (
    SETTINGS_FILE,
    EvaluationSettings,
    SettingsError,
    TrainingSettings,
    read_recipe,
)

if TYPE_CHECKING:
    from rich.table import Table

    from chatformer.data.exchanges import EncodedExchanges
    from chatformer.training.evaluation import Comparison, Evaluation, Outcome, ReplyFigures

OUTPUT_FILE = "evaluation.json"
BAD_ROWS_FILE = "bad_evaluation_rows.jsonl"
BAD_TRAINING_ROWS_FILE = "bad_training_rows.jsonl"
NUM_SAMPLES = 10

ROWS = {
    "loss": ("loss (nats per token)", ".3f"),
    "perplexity": ("perplexity", ".1f"),
    "bits_per_character": ("bits per character", ".3f"),
    "source_gain": ("  saved by listening", ".3f"),
    "history_gain": ("  saved by remembering", ".3f"),
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
"""The figures in the order of the table, what they are called there, and how they are written."""

FIGURES_BY_TURNS = ("bits_per_character", "history_gain", "chrf", "exact_match")
"""The figures that are shown by number of turns."""


def main(arguments: Sequence[str], program: str = "chatformer evaluate") -> int:
    """Evaluate as a command line says; return the exit status."""
    settings = tyro.cli(EvaluationSettings, args=list(arguments), prog=program)
    # After the flags are known to be right: these take seconds to import.
    import torch
    import transformers
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    from chatformer.chat.errors import ModelNotFound

    transformers.utils.logging.disable_progress_bar()
    # Unless it is told so, it joins processes that have GPUs alone.
    on_cpu = settings.device == "cpu" or parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    state = PartialState(cpu=on_cpu)
    try:
        evaluate(settings)
    except (ModelNotFound, OSError, ValueError) as error:
        message = str(error)
        if state.is_main_process:
            # Behind its first line transformers gives advice that is not about this command.
            print(f"error: {message.splitlines()[0] if isinstance(error, ModelNotFound) else message}", file=sys.stderr)
        return 2
    finally:
        state.destroy_process_group()
    return 0


def evaluate(settings: EvaluationSettings) -> None:
    """Measure the model, print the figures and write them down."""
    import transformers
    from accelerate import PartialState

    from chatformer.chat.chatbot import Chatbot
    from chatformer.chat.engines import CTranslate2Engine, TransformersEngine
    from chatformer.chat.settings import ReplySettings
    from chatformer.data.exchanges import content_digest, encode_exchanges
    from chatformer.data.unread import unread_part
    from chatformer.training.by_turns import figures_by_turns
    from chatformer.training.evaluation import EvaluatedModel, compare, has_metrics, outcome_of
    from chatformer.training.free_baselines import WHAT_TO_DO, better_baselines, sentences_about

    check(settings)
    output_file = output_file_of(settings)
    if not output_file.parent.is_dir():
        raise SettingsError(f"There is no directory {output_file.parent} for --output-file {output_file}.")
    notes, signatures = [], {}
    if has_metrics():
        from chatformer.training.metrics import signatures as signatures_of

        signatures = signatures_of(bleu_tokenize=settings.bleu_tokenize)
    else:
        notes.append("BLEU, chrF and the nearest question are left out: pip install 'chatformer[metrics]' adds them.")
    state = PartialState()
    chatbot = Chatbot.from_pretrained(
        settings.model,
        engine=settings.engine,
        revision=settings.revision,
        device=settings.device if settings.device and state.num_processes == 1 else str(state.device),
    )
    if state.is_main_process:
        chatbot.checkpoint.show_commit()
    # That a source or a reference is longer than the model was trained on is handled here.
    transformers.utils.logging.set_verbosity_error()
    engine = chatbot.engine
    assert isinstance(engine, TransformersEngine | CTranslate2Engine)
    # Now, as a training may put others there meanwhile; a model of CTranslate2, which is not pushed, has none.
    weights_sha256 = chatbot.checkpoint.weights_sha256() if isinstance(engine, TransformersEngine) else None
    run = run_settings(Path(settings.model))
    conversations, training, problem = data_of(settings, run, output_file.parent)
    if training is None:
        notes.append(
            "What is seen or copied, and the baselines, are left out: the training data is not at hand, as "
            f"{problem} Give it with --training-data."
        )
    unread = unread_part(chatbot.tokenizer, conversations)
    if unread is not None:
        notes.append(f"The data has {unread}, which the model's chat template leaves out.")
    exchanges = encode_exchanges(
        conversations,
        chatbot.tokenizer,
        chatbot.max_source_tokens or sys.maxsize,
        settings.max_target_tokens or (run.tokenizer.max_target_tokens if run else sys.maxsize),
    )
    if not len(exchanges):
        raise SettingsError(
            "Every reference is too long, so that none is left to measure on: raise --max-target-tokens."
        )
    if exchanges.num_too_long:
        notes.append(f"{exchanges.num_too_long} exchanges are left out, whose reference is too long.")
    outcome = outcome_of(
        EvaluatedModel(engine.model) if isinstance(engine, TransformersEngine) else engine,
        chatbot.tokenizer,
        exchanges,
        max_replies=settings.max_replies,
        search=ReplySettings(
            num_beams=settings.num_beams,
            length_penalty=settings.length_penalty,
            no_repeat_ngram_size=settings.no_repeat_ngram_size,
            max_new_tokens=settings.max_new_tokens,
        ).search(),
        batch_tokens=settings.batch_tokens,
        show_progress=True,
    )
    # Everyone has the whole outcome; one is enough to tell of it.
    if not state.is_main_process:
        return
    comparison = compare(
        exchanges,
        outcome,
        None if training is None else questions_and_answers(training),
        bleu_tokenize=settings.bleu_tokenize,
    )
    better = better_baselines(comparison, len(outcome.replies))
    if better:
        notes.append(" ".join([*sentences_about(better), WHAT_TO_DO]))
    by_turns = figures_by_turns(exchanges, outcome, bleu_tokenize=settings.bleu_tokenize)
    report = {
        **figures_in(comparison),
        "by_turns": {
            length: {"exchanges": count, **dataclasses.asdict(figures)} for length, (count, figures) in by_turns.items()
        },
        "signatures": signatures,
        "notes": notes,
        "settings": dataclasses.asdict(settings),
        "weights_sha256": weights_sha256,
        "data": {
            "conversations": len(conversations),
            "exchanges": len(exchanges),
            "left_out_as_too_long": exchanges.num_too_long,
            "sha256": content_digest(conversations),
        },
        "training_data": None
        if training is None
        else {"conversations": len(training), "sha256": content_digest(training)},
        "environment": versions(),
        "items": items(exchanges, outcome, comparison),
    }
    # Before it is shown: whoever reads along, as `head` does, may leave before the end.
    write(report, output_file)
    show(settings.model, comparison, by_turns, samples(report["items"]), signatures, notes)
    print(f"All figures and replies: {output_file}")


def check(settings: EvaluationSettings) -> None:
    """Raise a `SettingsError` for a number that cannot be."""
    least = {
        "max_target_tokens": 1,
        "max_replies": 0,
        "num_beams": 1,
        "no_repeat_ngram_size": 0,
        "max_new_tokens": 1,
        "batch_tokens": 1,
    }
    for name, minimum in least.items():
        value = getattr(settings, name)
        if value is not None and value < minimum:
            raise SettingsError(f"--{name.replace('_', '-')} ({value}) must be at least {minimum}.")


def output_file_of(settings: EvaluationSettings) -> Path:
    if settings.output_file is not None:
        return Path(settings.output_file)
    folder = Path(settings.model)
    return folder / OUTPUT_FILE if folder.is_dir() else Path(OUTPUT_FILE)


def run_settings(folder: Path) -> TrainingSettings | None:
    """Return what the model in `folder` was trained with, where that stands beside it."""
    file = folder / SETTINGS_FILE
    return read_recipe(str(file)) if file.is_file() else None


def data_of(settings: EvaluationSettings, run: TrainingSettings | None, output_folder: Path) -> tuple[Any, Any, str]:
    """Return what to measure on, the training conversations or None, and why there are none."""
    from chatformer.data.preparation import read_conversations

    conversations = training = None
    if settings.data:
        loaded = read_conversations(settings.data, settings, skip_bad_rows=settings.skip_bad_rows)
        loaded.bad_rows.report(output_folder / BAD_ROWS_FILE)
        conversations = loaded.conversations
    if settings.training_data:
        loaded = read_conversations(settings.training_data, settings, skip_bad_rows=settings.skip_bad_rows)
        loaded.bad_rows.report(output_folder / BAD_TRAINING_ROWS_FILE)
        training = loaded.conversations
    problem = ""
    if conversations is None or training is None:
        try:
            own_training, own_validation = own_data(settings.model, run)
        except (OSError, ValueError) as error:
            problem = str(error)
            if conversations is None:
                raise SettingsError(f"There is nothing to measure on: {problem} Give --data.") from error
        else:
            training = own_training if training is None else training
            conversations = own_validation if conversations is None else conversations
    if not len(conversations):
        raise SettingsError(f"There is nothing to measure on: {settings.model} kept no validation data. Give --data.")
    return conversations, training, problem


def own_data(model: str, run: TrainingSettings | None) -> tuple[Any, Any]:
    """Return what the run was trained and validated on; raise a `ValueError` unless it is still the same."""
    from chatformer.data.exchanges import content_digest
    from chatformer.data.preparation import conversations_of
    from chatformer.training.records import RECORD_FILE

    if run is None:
        raise SettingsError(f"{model} has no {SETTINGS_FILE}, which would say what it was trained on.")
    # Bad rows were listed when the run began.
    training, validation = (loaded.conversations for loaded in conversations_of(run))
    record = json.loads((Path(model) / RECORD_FILE).read_text("utf-8"))
    if content_digest(training) != record["data"]["training_sha256"]:
        raise SettingsError(f"{' '.join(run.data.data)} has changed since {model} was trained on it.")
    return training, validation


def questions_and_answers(conversations: Any) -> list[tuple[str, str]]:
    """Return each answer behind the turn that it answers."""
    from chatformer.data.messages import exchanges

    return [
        (history[-1]["content"], answer)
        for conversation in conversations
        for history, answer in exchanges(conversation["messages"])
    ]


def figures_in(comparison: "Comparison") -> dict[str, Any]:
    """Return the figures as the file has them."""

    def by_group(figures: "dict[str, Any]") -> dict[str, Any]:
        return {group: None if each is None else dataclasses.asdict(each) for group, each in figures.items()}

    return {
        "exchanges": {group: len(indices) for group, indices in comparison.groups.items()},
        "figures": by_group(comparison.model),
        "baselines": {name: by_group(figures) for name, figures in comparison.baselines.items()},
    }


def items(exchanges: "EncodedExchanges", outcome: "Outcome", comparison: "Comparison") -> list[dict[str, Any]]:
    """Return each exchange with its loss and, where there is one, its reply."""
    seen = set(comparison.groups.get("seen", ()))
    made = []
    for index, (history, reference) in enumerate(zip(exchanges.histories, exchanges.replies, strict=True)):
        item: dict[str, Any] = {
            "history": history,
            "reference": reference,
            "tokens": int(exchanges.target_lengths[index]),
            "nats": float(outcome.nats[index]),
        }
        if "seen" in comparison.groups:
            item["seen"] = index in seen
        if index < len(outcome.replies):
            item["reply"] = outcome.replies[index]
            item |= {name: replies[index] for name, replies in comparison.baseline_replies.items()}
        made.append(item)
    return made


def samples(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a few items with replies, from all over the data."""
    answered = [item for item in items if "reply" in item]
    count = min(NUM_SAMPLES, len(answered))
    return [answered[number * len(answered) // count] for number in range(count)]


def versions() -> dict[str, str]:
    """Return the versions that the figures depend on."""
    from importlib.metadata import PackageNotFoundError, version

    from chatformer.training.records import environment

    found = environment()
    for package in ("evaluate", "sacrebleu", "scikit-learn", "ctranslate2"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def show(
    model: str,
    comparison: "Comparison",
    by_turns: "dict[str, tuple[int, Evaluation]]",
    samples: list[dict[str, Any]],
    signatures: dict[str, str],
    notes: list[str],
) -> None:
    """Print the tables, what their words mean, and a few replies."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    console.print(table(model, comparison))
    if by_turns:
        console.print(table_by_turns(by_turns))
    if "seen" in comparison.groups:
        console.print("seen: the reference answer stands in the training data; unseen: it does not.", style="dim")
    if samples:
        console.print("distinct-n: different words, and pairs of them, split at white space, over all.", style="dim")
        console.print(
            "loops or doubled words: a word, or two, twice in a row, or three that occur twice in a reply.", style="dim"
        )
    for name, signature in signatures.items():
        console.print(f"{ROWS[name][0]}: {signature}", style="dim", soft_wrap=True)
    for note in notes:
        console.print(f"[yellow]note:[/] {escape(note)}", soft_wrap=True)
    if samples:
        console.print("\nSome of the replies:")
    for sample in samples:
        source, reply, reference = (
            escape(" ".join(text.split()))
            for text in (sample["history"][-1]["content"], sample["reply"], sample["reference"])
        )
        console.print(f"  {source}\n    → [bold]{reply}[/]  [dim](reference: {reference})[/]", soft_wrap=True)
    console.print()


def table(model: str, comparison: "Comparison") -> "Table":
    from rich.markup import escape
    from rich.table import Table

    columns: dict[str, ReplyFigures | None] = {**comparison.model}
    columns |= {baseline: figures["all"] for baseline, figures in comparison.baselines.items()}
    made = Table(title=escape(model), title_justify="left")
    made.add_column("")
    for name in columns:
        made.add_column(name, justify="right", max_width=8)
    counts = [len(comparison.groups[name]) if name in comparison.groups else "" for name in columns]
    made.add_row("exchanges", *map(str, counts), end_section=True)
    for name, (title, form) in ROWS.items():
        if name == "bleu":
            made.add_section()
        values = [getattr(figures, name, None) for figures in columns.values()]
        if any(value is not None for value in values):
            made.add_row(title, *(figure_in(value, form) for value in values))
    return made


def table_by_turns(by_turns: "dict[str, tuple[int, Evaluation]]") -> "Table":
    from rich.table import Table

    made = Table(title="by number of questions so far", title_justify="left")
    made.add_column("")
    for length in by_turns:
        made.add_column(length, justify="right")
    made.add_row("exchanges", *(str(count) for count, _ in by_turns.values()), end_section=True)
    for name in FIGURES_BY_TURNS:
        title, form = ROWS[name]
        made.add_row(title, *(figure_in(getattr(figures, name), form) for _, figures in by_turns.values()))
    return made


def figure_in(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def write(report: dict[str, Any], file: Path) -> None:
    """Write the report aside and put it in its place, so that it is never half."""
    aside = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        aside.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", "utf-8")
        aside.replace(file)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise SettingsError(f"{file} cannot be written ({error.strerror}). Give another --output-file.") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "python -m chatformer.cli.evaluate"))
