"""
`chatformer train --data X --output-dir Y`, with no other flag, on data of many sizes.

    python benchmarks/own_data.py --songys ChatbotData.csv --multi30k train.en train.de \
        --multi30k-test test_2016_flickr.en test_2016_flickr.de --output-dir runs/own-data

The data: rows of songys/Chatbot_data drawn by the seed, all of it, the FAQ next to this file (a hundred questions of a
made-up shop, three wordings of each to learn and a fourth to ask), the starter corpus, and Multi30k's pairs. The
command trains on each in a process of its own, one after the other; the evaluation of `chatformer evaluate` measures
the model.
"""

import csv
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from machine import markdown_table

from chatformer.storage.writing import write_json

FAQ = Path(__file__).with_name("faq.csv")
SIZES = (100, 300, 1000, 3000)
MOST_QUESTIONS = 1000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Train with no flags on data of many sizes, and write a table."""

    output_dir: Path
    """Folder of the runs and of the table, own_data.md and own_data.json; a run that is finished there is not
    repeated."""
    songys: Path | None = None
    """ChatbotData.csv of songys/Chatbot_data; left out unless given."""
    multi30k: tuple[Path, Path] | None = None
    """Multi30k's training sentences, two files line by line; left out unless given."""
    multi30k_test: tuple[Path, Path] | None = None
    """Its test sentences, likewise."""
    only: tuple[str, ...] = ()
    """Cases to run, such as 100 faq starter all multi30k; unless given, each case whose data is given."""
    seed: int = 1
    """Seed that draws the rows of songys."""


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    data: list[str]
    test: list[str] | None = None
    """Questions and answers that are asked at the end."""


def cases(settings: Settings) -> Iterator[Case]:
    """Yield the cases; a part of a file is written to a file of its own."""
    folder = settings.output_dir / "data"
    folder.mkdir(parents=True, exist_ok=True)
    if settings.songys is not None:
        with settings.songys.open(encoding="utf-8", newline="") as file:
            head, *rows = csv.reader(file)
        for size in SIZES:
            drawn = random.Random(settings.seed).sample(rows, size)
            yield Case(str(size), [str(write_rows(folder / f"songys-{size}.csv", head, drawn))])
        yield Case("all", [str(settings.songys)])
    with FAQ.open(encoding="utf-8", newline="") as file:
        wordings = list(csv.DictReader(file))
    learnt, asked = (
        str(write_rows(folder / name, ["question", "answer"], [[row["question"], row["answer"]] for row in part]))
        for name, part in (
            ("faq.csv", [row for row in wordings if row["wording"] != "4"]),
            ("faq-test.csv", [row for row in wordings if row["wording"] == "4"]),
        )
    )
    yield Case("faq", [learnt], [asked])
    yield Case("starter", ["starter"])
    if settings.multi30k is not None:
        test = None if settings.multi30k_test is None else list(map(str, settings.multi30k_test))
        yield Case("multi30k", list(map(str, settings.multi30k)), test)


def write_rows(path: Path, head: list[str], rows: list[list[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return path


def train(case: Case, folder: Path) -> float:
    """Train with no flags; return the minutes that the command took."""
    began = time.monotonic()
    command = [sys.executable, "-m", "chatformer.cli.main", "train", "--data", *case.data, "--output-dir", str(folder)]
    subprocess.run(command, check=True)
    return (time.monotonic() - began) / 60


def figures(case: Case, folder: Path) -> dict[str, Any]:
    """The trained model's figures on its own questions, on the validation data and on the test data."""
    from chatformer.chat.chatbot import Chatbot
    from chatformer.configuration.recipes import read_recipe
    from chatformer.data.exchanges import encode_exchanges
    from chatformer.data.preparation import conversations_of, read_conversations
    from chatformer.evaluation.figures import evaluate

    settings = read_recipe(str(folder / "training_settings.yaml"))
    chatbot = Chatbot.from_pretrained(str(folder))
    training, validation = (loaded.conversations for loaded in conversations_of(settings))
    own = training.shuffle(seed=0).select(range(min(MOST_QUESTIONS, len(training))))
    parts = {"own": own, "validation": validation}
    if case.test is not None:
        loaded = read_conversations(tuple(case.test), settings.data, skip_bad_rows=False)
        parts["test"] = loaded.conversations
    found: dict[str, Any] = {}
    for name, conversations in parts.items():
        exchanges = encode_exchanges(
            conversations,
            chatbot.tokenizer,
            settings.tokenizer.max_source_tokens,
            # No reference is left out.
            10**6 if name == "test" else settings.tokenizer.max_target_tokens,
        )
        evaluation, replies = evaluate(chatbot.engine.model, chatbot.tokenizer, exchanges, max_replies=None)
        found[name] = {
            "questions": len(replies),
            "exact": evaluation.exact_match,
            "distinct": evaluation.distinct_replies,
            "bits": evaluation.bits_per_character,
            "saved_by_listening": evaluation.source_gain,
            "chrf": evaluation.chrf,
            "bleu": evaluation.bleu,
        }
    record = json.loads((folder / "training_record.json").read_text("utf-8"))
    plan = settings.flat()
    return {
        "exchanges": record["overview"]["training_exchanges"],
        "plan": {name: plan[name] for name in ("size", "max_steps", "tokens_per_step", "dropout", "bpe_dropout")},
        **found,
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """The figures as Markdown."""
    rows = []
    for name, result in results.items():
        plan, own, validation = result["plan"], result["own"], result["validation"]
        test = result.get("test")
        on_test = ""
        if test is not None:
            on_test = f"BLEU {test['bleu']:.1f}" if name == "multi30k" else f"exact {test['exact']:.0f}%"
        rows.append(
            [
                name,
                f"{result['exchanges']:,}",
                f"{plan['size']}, {plan['max_steps']:,} steps of {plan['tokens_per_step']:,} tokens",
                f"{result['minutes']:.1f}",
                f"{own['exact']:.1f}%",
                f"{validation['distinct']} of {validation['questions']}",
                f"{validation['saved_by_listening']:.3f}",
                on_test,
            ]
        )
    columns = ["data", "exchanges", "plan", "minutes", "own questions exact", "validation: distinct replies"]
    return markdown_table([*columns, "saved by listening, bits a character", "test"], rows)


def main(settings: Settings) -> None:
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    file = settings.output_dir / "own_data.json"
    results = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    for case in cases(settings):
        if case.name in results or (settings.only and case.name not in settings.only):
            continue
        folder = settings.output_dir / case.name
        minutes = train(case, folder)
        results[case.name] = {"minutes": minutes, **figures(case, folder)}
        write_json(file, results)
        (settings.output_dir / "own_data.md").write_text(table(results), "utf-8")
    print(table(results))


if __name__ == "__main__":
    main(tyro.cli(Settings))
