"""
The way of the data: time and memory of reading, splitting, tokenizing and planning.

    python benchmarks/pipeline.py --data ChatbotData.csv --num-pairs 1000000
    python benchmarks/pipeline.py --data ChatbotData.csv --num-pairs 10000000

--num-pairs pairs of a question and an answer of --data are drawn at random, numbered so that all differ, and written to
a Parquet file. Then they go the way of `chatformer train`: read, split, encoded by all cores into a file, planned into
the batches of an epoch, and collated for --num-steps steps.

Memory is what the process holds for itself, without the pages of files that the system caches.
"""

import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from machine import print_table, run, write_figures
from text import TextSettings, training_settings

from chatformer.configuration.training import check_settings
from chatformer.data.batches import collate, plan_epoch
from chatformer.data.exchanges import encode_exchanges
from chatformer.data.preparation import conversations_of, message_texts
from chatformer.data.tokenizer import train_tokenizer
from chatformer.fast_training import speed_up
from chatformer.training.building import new_model

PAIRS_AT_ONCE = 100_000


@dataclass(frozen=True, kw_only=True)
class Settings(TextSettings):
    """Measure the time and the memory that data takes on its way to the model."""

    num_pairs: int = 1_000_000
    """Pairs of a question and an answer."""
    num_steps: int = 200
    """Steps whose tensors are timed."""
    markdown: bool = False
    """Print the table in Markdown, as docs/speed.md has it."""
    output_file: Path | None = None
    """Write all figures to this JSON file."""


def own_memory() -> float:
    """MiB that the process holds, without its files."""
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024  # type: ignore[index]


class Stages:
    """Measures the time and the memory of each stage."""

    def __init__(self) -> None:
        self.figures: dict[str, dict[str, float]] = {}
        self.peak = 0.0
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self) -> None:
        while True:
            self.peak = max(self.peak, own_memory())
            time.sleep(0.02)

    def run(self, name: str, work: Callable[[], Any]) -> Any:
        self.peak = before = own_memory()
        began = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - began
        self.figures[name] = {"seconds": seconds, "peak_mib": max(self.peak, own_memory()) - before}
        return result


def write_pairs(messages: Sequence[Sequence[dict[str, str]]], num_pairs: int, seed: int, file: Path) -> None:
    """Write pairs of a random question and a random answer, no two alike."""
    random = np.random.default_rng(seed)
    schema = pyarrow.schema([("question", pyarrow.string()), ("answer", pyarrow.string())])
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for start in range(0, num_pairs, PAIRS_AT_ONCE):
            numbers = range(start, min(start + PAIRS_AT_ONCE, num_pairs))
            asked, answered = random.integers(len(messages), size=(2, len(numbers)))
            questions = [
                f"{messages[which][0]['content']} {number}" for which, number in zip(asked, numbers, strict=True)
            ]
            answers = [messages[which][-1]["content"] for which in answered]
            writer.write_table(pyarrow.table({"question": questions, "answer": answers}, schema))


def measure(settings: Settings) -> None:
    """Measure each stage, then print the table and write all figures."""
    for flag, value in (("--num-pairs", settings.num_pairs), ("--num-steps", settings.num_steps)):
        if value < 1:
            raise ValueError(f"{flag} must be at least 1, but it is {value}.")
    plain = training_settings(settings)
    check_settings(plain)
    small = conversations_of(plain)[0].conversations
    tokenizer = train_tokenizer(message_texts(small), settings.vocab_size)
    messages = list(small["messages"])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pairs.parquet")
        write_pairs(messages, settings.num_pairs, settings.seed, file)
        large = plain.changed({"data": [str(file)]}, where="benchmark")
        stages = Stages()
        training = stages.run("read and split", lambda: conversations_of(large))[0].conversations
        limits = large.tokenizer.max_source_tokens, large.tokenizer.max_target_tokens
        encoded = stages.run(
            "tokenize", lambda: encode_exchanges(training, tokenizer, *limits, cache_folder=Path(folder, "cache"))
        )
        tokens_per_step = large.optimization.tokens_per_step
        plan = stages.run("plan an epoch", lambda: plan_epoch(encoded, tokens_per_step, settings.seed, 0))
        steps = plan[: settings.num_steps]
        batches = stages.run(
            f"collate {len(steps):,} steps", lambda: [collate(encoded, step, tokenizer.pad_token_id) for step in steps]
        )
        model = new_model(plain.model, tokenizer, max_new_tokens=1)
        speed_up(model)
        stages.run(f"train on these, {settings.size}", lambda: [model(**batch).loss.backward() for batch in batches])
    *_, collated, trained = stages.figures.values()
    rows = [[name, f"{found['seconds']:.1f}", f"{found['peak_mib']:,.0f}"] for name, found in stages.figures.items()]
    print_table(
        f"{settings.num_pairs:,} pairs, {os.cpu_count()} cores; collating takes "
        f"{collated['seconds'] / trained['seconds']:.1%} of forward and backward passes in float32",
        ["stage", "seconds", "MiB more than before, at most"],
        rows,
        markdown=settings.markdown,
    )
    write_figures(settings.output_file, settings=asdict(settings), stages=stages.figures)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as a command line says; return the exit status."""
    return run(measure, Settings, arguments, prog="python benchmarks/pipeline.py", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
