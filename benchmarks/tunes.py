"""
How well a model writes tunes at several temperatures, and the score of one that it wrote.

    chatformer train --recipe tunes --output-dir runs/tunes
    chatformer evaluate runs/tunes
    python benchmarks/tunes.py temperatures runs/tunes --max-tunes 120
    python benchmarks/tunes.py temperatures runs/tunes --max-tunes 120 --others --temperatures 0.7
    python benchmarks/tunes.py score runs/tunes "Play me a jig in D major, 6/8" --output-file tune.svg

`temperatures` draws a tune for each wish of the held out titles and prints the figures of `chatformer evaluate`, those
that need no likelihood, so that the temperature and top-p of the recipe can be chosen. Real tunes are the last row.
With `--others` it measures what was chosen, on tunes that had no part in it.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro
from machine import figure_cell, markdown_head, markdown_row

from chatformer.chat.chatbot import Chatbot
from chatformer.chat.errors import ChatError
from chatformer.chat.lines import replies
from chatformer.chat.playing import score_of
from chatformer.configuration.replies import ReplySettings
from chatformer.conversation import turn
from chatformer.data.named import named_conversations
from chatformer.data.wishes import asked_in
from chatformer.evaluation.own_data import questions_and_answers
from chatformer.evaluation.tunes import ROWS, RhythmJudge, TuneFigures, beats_in, figures_of_tunes
from chatformer.tunes import TUNE

BATCH_TOKENS = 2000


@dataclass(frozen=True, kw_only=True)
class TemperaturesSettings:
    """Compare the tunes that a model draws at several temperatures."""

    model: Annotated[str, tyro.conf.Positional]
    """Folder of a model that writes tunes."""
    data: str = "tunes"
    """Named data that it was trained on; its held out titles are asked for."""
    temperatures: tuple[float, ...] = (0.0, 0.5, 0.7, 0.9, 1.0)
    """0 writes the likeliest notes."""
    top_p: float = 0.95
    """Draw from the likeliest tokens that together have this probability."""
    max_tunes: int = 360
    """Wishes from all over the data."""
    others: bool = False
    """The wishes for all other tunes instead, by which nothing has been chosen."""
    seed: int = 42
    """Of the draws."""


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """Draw the score of a tune that a model writes."""

    model: Annotated[str, tyro.conf.Positional]
    """Folder of a model that writes tunes."""
    wish: Annotated[str, tyro.conf.Positional]
    """What to ask for."""
    seed: int = 42
    """Of the draw."""
    output_file: Path = Path("tune.svg")
    """Where to write the score."""


def drawn(chatbot: Chatbot, wishes: Sequence[str], search: ReplySettings, seed: int) -> list[str]:
    """The model's reply to each wish."""
    chatbot.engine.set_seed(seed)
    conversations = [[turn("user", wish)] for wish in wishes]
    return replies(chatbot, conversations, search.search(), BATCH_TOKENS, lambda _: None)[0]


def compare_temperatures(settings: TemperaturesSettings) -> None:
    chatbot = Chatbot.from_pretrained(settings.model, device="cpu")
    training, held_out = (
        questions_and_answers(named_conversations([name]).conversations)
        for name in (settings.data, f"{settings.data}-held-out")
    )
    asked = held_out[:: max(1, -(-len(held_out) // settings.max_tunes))]
    if settings.others:
        seen = {tune for _, tune in asked}
        asked = [(wish, tune) for wish, tune in held_out if tune not in seen]
        if not asked:
            raise ValueError(f"--others leaves no tune, since --max-tunes {settings.max_tunes} has them all. Lower it.")
    print(f"{len(asked)} wishes")
    wishes, real = [wish for wish, _ in asked], [tune for _, tune in asked]
    known = "\n".join(f" {beats_in(tune)} " for tune in dict.fromkeys(tune for _, tune in training))
    judge = RhythmJudge.trained(training)
    print(markdown_head(["temperature", *ROWS.values()]))

    def line(name: str, texts: Sequence[str]) -> str:
        figures = figures_of_tunes(texts, [asked_in(wish) for wish in wishes], real, known=known, judge=judge)
        values = [getattr(figures, field.name) for field in fields(TuneFigures)]
        return markdown_row([name, *map(figure_cell, values)])

    for temperature in settings.temperatures:
        search = ReplySettings(temperature=temperature, top_p=settings.top_p if temperature else None)
        print(line(f"{temperature:g}", drawn(chatbot, wishes, search, settings.seed)), flush=True)
    print(line("real tunes", real))


def write_score(settings: ScoreSettings) -> None:
    chatbot = Chatbot.from_pretrained(settings.model, device="cpu")
    (reply,) = drawn(chatbot, [settings.wish], ReplySettings(), settings.seed)
    print(reply)
    match = TUNE.search(reply)
    if match is None:
        raise ChatError("The reply is no tune. Take another --seed.")
    settings.output_file.write_bytes(score_of(match[0]))
    print(settings.output_file)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare or draw as the command line says; return the exit status."""

    def temperatures(settings: tyro.conf.OmitArgPrefixes[TemperaturesSettings]) -> None:
        """Compare the tunes that a model draws at several temperatures."""
        compare_temperatures(settings)

    def score(settings: tyro.conf.OmitArgPrefixes[ScoreSettings]) -> None:
        """Draw the score of a tune that a model writes."""
        write_score(settings)

    try:
        tyro.extras.subcommand_cli_from_dict({"temperatures": temperatures, "score": score}, args=arguments)
    except (ChatError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
