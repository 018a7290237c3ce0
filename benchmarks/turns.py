"""
Exact replies over many turns: behind other topics, and with and without a history.

    chatformer train --recipe quickstart --output-dir runs/quickstart
    python benchmarks/turns.py runs/quickstart --output-file turns.json

The first table asks opening questions alone and after 1, 2, 3 and 5 openings of other conversations, drawn by a seed: a
model that keeps the thread gives the same replies. The second asks follow-up questions with their own history, with the
history of another conversation, and alone: a model that uses the history replies right only with its own.
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from machine import markdown_table

from chatformer.chat.chatbot import Chatbot
from chatformer.chat.errors import ChatError
from chatformer.configuration.data import ReadingSettings
from chatformer.data.exchanges import encode_exchanges
from chatformer.data.preparation import read_conversations
from chatformer.evaluation.own_data import own_data, run_settings
from chatformer.evaluation.turns import Histories, OtherTopics, ask_behind_other_topics, ask_with_histories
from chatformer.reading import reads_history
from chatformer.storage.writing import write_json


@dataclass(frozen=True, kw_only=True)
class Settings(ReadingSettings):
    """Ask a model questions behind other topics, and with their own, another's and no history."""

    model: Annotated[str, tyro.conf.Positional]
    """Folder of a trained model, or a model's id on the Hub."""
    data: tuple[str, ...] = ()
    """Conversations for both tables; unless given, those that the run was trained on for the first and those that it
    was validated on for the second."""
    num_questions: int = 300
    """Most questions of each table."""
    seed: int = 42
    """Seed of the questions and of what is said before them."""
    device: str | None = None
    """Where to run, such as cpu or cuda; a GPU if there is one unless given."""
    output_file: Path | None = None
    """JSON file for the figures and all replies."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the command line says; return the exit status."""
    settings = tyro.cli(Settings, args=arguments)
    try:
        measure(settings)
    except (ChatError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def measure(settings: Settings) -> None:
    """Print both tables, and write their figures and replies."""
    if settings.num_questions < 1:
        raise ValueError(f"--num-questions must be at least 1, but it is {settings.num_questions}.")
    chatbot = Chatbot.from_pretrained(settings.model, revision=None, device=settings.device)
    tokenizer, longest = chatbot.tokenizer, chatbot.max_source_tokens
    if settings.data:
        openings = later = read_conversations(
            settings.data, settings, skip_bad_rows=settings.skip_bad_rows
        ).conversations
    else:
        openings, later = own_data(settings.model, run_settings(Path(settings.model)))
    options: dict[str, Any] = {
        "num_questions": settings.num_questions,
        "max_source_tokens": longest,
        "seed": settings.seed,
        "show_progress": True,
    }
    topics = ask_behind_other_topics(chatbot.engine, tokenizer, openings, **options)
    exchanges = encode_exchanges(later, tokenizer, longest or sys.maxsize, sys.maxsize)
    histories = ask_with_histories(chatbot.engine, tokenizer, exchanges, **options)
    if not reads_history(tokenizer):
        print("note: this model reads the last question alone, by its chat template.", file=sys.stderr)
    if settings.output_file is not None:
        report = figures_of(topics, histories) | {
            "settings": dataclasses.asdict(settings),
            "other_topics": dataclasses.asdict(topics),
            "histories": None if histories is None else dataclasses.asdict(histories),
        }
        write_json(settings.output_file, report, default=str)
    print(tables(topics, histories))


def figures_of(topics: OtherTopics, histories: Histories | None) -> dict[str, Any]:
    """The figures of both tables, in percent."""
    return {
        "behind_other_topics": {
            str(number): {"exact_match": topics.exact(number), "as_asked_alone": topics.unchanged(number)}
            for number in topics.replies
        },
        "by_history": None
        if histories is None
        else {whose: {"exact_match": histories.exact(whose)} for whose in histories.replies},
    }


def tables(topics: OtherTopics, histories: Histories | None) -> str:
    """Both tables, in Markdown."""
    text = f"{len(topics.questions)} single questions:\n\n" + markdown_table(
        ["exchanges on other topics before", "exact replies", "the reply as asked alone"],
        (
            (str(number), f"{topics.exact(number):.1f}%", f"{topics.unchanged(number):.1f}%")
            for number in topics.replies
        ),
        texts=0,
    )
    if histories is None:
        return f"{text}\nNo two questions have as many turns before them."
    return f"{text}\n{len(histories.questions)} questions with turns before them:\n\n" + markdown_table(
        ["history", "exact replies"], ((whose, f"{histories.exact(whose):.1f}%") for whose in histories.replies)
    )


if __name__ == "__main__":
    sys.exit(main())
