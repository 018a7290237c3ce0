"""
Sparse self-attention against full: seconds and memory by length, and quality at equal time on long inputs.

    python benchmarks/sparse.py growth --markdown
    python benchmarks/sparse.py quality --output-dir runs/sparse --minutes 15

`growth` measures three things at each length n, every one in a process of its own, on the CPU:

    read     a training step of a source of n tokens and a reply of 64
    write    a training step of a source of 64 tokens and a reply of n
    token    a token of `generate()` behind a reply of n tokens so far, with a source of 64

The time is that of one core, as the system counts it for the process: what else the machine does adds nothing. The
contestants have the same sizes. "full" and the sparse ones train as `chatformer train` does on a CPU, where weights
of attention are kept for the backward pass; "full, fused" is torch's fused attention, which never holds them all. Both
generate by the fused one. Strides are the roots of the lengths. The growth is the exponent p of the law n^p that fits
best from 1,024 tokens on, by least squares of the logarithms.

`quality` joins conversations of the starter corpus to about 2,000 tokens. The first exchange is the one that the last
question is about: the answer depends on what lies 1,900 tokens back. `chatformer train --minutes` takes as many steps
with each self-attention as fit into the same time, on inputs of all lengths up to that, and `chatformer evaluate`
measures on long ones about conversations that were kept out.
"""

import csv
import json
import math
import multiprocessing
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from machine import print_table, run, write_figures
from multi30k import chatformer
from transformers import LogitsProcessor, LogitsProcessorList

from chatformer import ChatformerForConditionalGeneration, sized_config
from chatformer.configuration.configuration_chatformer import root_of
from chatformer.data.preparation import starter_file
from chatformer.data.tokenizer import train_tokenizer
from chatformer.storage.run_folder import Records
from chatformer.training.building import ready_to_train
from chatformer.training.distributed import keep_freed_memory
from chatformer.training.pace import peak_memory

Measure = Literal["read", "write", "token"]
Kind = Literal["full", "full, fused", "strided", "fixed"]
CPU = torch.device("cpu")
SHORT = 64
"""Tokens of the other sequence."""
VOCABULARY = 8000
LEAST_TOKENS = 40
"""Of a conversation and a question about it."""
LEAST_OF_A_FIT = 1024
"""Below, what takes the same time at each length hides the growth."""


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Measure seconds and memory at many lengths."""

    measures: tuple[Measure, ...] = get_args(Measure)
    """What is measured."""
    kinds: tuple[Kind, ...] = get_args(Kind)
    """The contestants; the others are compared with the first one."""
    lengths: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192, 16384)
    """Tokens of the long sequence."""
    size: str = "tiny"
    """The named size of the models."""
    repetitions: int = 3
    """Steps that are measured, after one that is not; their median counts."""
    num_new_tokens: int = 30
    """Tokens that are generated; the median of their times counts."""
    most_gigabytes: float = 12.0
    """Leave out what would need more memory."""
    markdown: bool = False
    """Print the tables in Markdown, as docs/sparse.md has them."""
    output_file: Path | None = None
    """JSON file for every figure."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Train with each self-attention for equal time on conversations of 2,000 tokens."""

    output_dir: Path
    """Folder of the data and of the runs; a run that is finished there is not repeated."""
    minutes: float = 10.0
    """Minutes for the steps of each training."""
    kinds: tuple[Literal["full", "strided", "fixed"], ...] = ("full", "strided", "fixed")
    """The contestants."""
    num_tokens: int = 1900
    """Tokens of an input, about."""
    num_versions: int = 8
    """How often each conversation is asked about, behind others each time."""
    num_kept_out: int = 80
    """Conversations that are measured on, and not learnt."""
    seed: int = 1
    """Of the first weights and of the order of the data."""
    markdown: bool = False
    """Print the table in Markdown."""
    output_file: Path | None = None
    """JSON file for every figure."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What one process measures."""

    measure: Measure
    kind: Kind
    length: int


@dataclass(frozen=True, kw_only=True)
class Found:
    seconds: float
    gigabytes: float


def model_for(kind: Kind, length: int, size: str) -> ChatformerForConditionalGeneration:
    self_attention = "full" if kind.startswith("full") else kind
    stride = None if self_attention == "full" else root_of(length)
    torch.manual_seed(0)
    config = sized_config(size, self_attention=self_attention, stride=stride, vocab_size=VOCABULARY, dropout=0.1)
    return ChatformerForConditionalGeneration(config)


def gigabytes_of(cell: Cell, size: str) -> float:
    """About how much memory a cell takes, if that is much: the weights of full attention that a training keeps."""
    if cell.kind != "full" or cell.measure == "token":
        return 0.0
    config: Any = sized_config(size)
    layers = config.encoder_layers if cell.measure == "read" else config.decoder_layers
    # Those of each layer, and three more of the layer that is computed.
    return 4 * config.num_heads * cell.length**2 * (layers + 3) / 1e9


def measured(cell: Cell, settings: Growth) -> Found:
    """Measure a cell in this process, which has measured nothing before."""
    torch.set_num_threads(1)
    keep_freed_memory()
    model = model_for(cell.kind, cell.length, settings.size)
    work = token_times if cell.measure == "token" else step_times
    # What every process has: libraries, weights, the optimizer's state.
    work(model, cell, settings, length=8)
    before = peak_memory(CPU)
    seconds = statistics.median(work(model, cell, settings, length=cell.length))
    after = peak_memory(CPU)
    assert before is not None and after is not None
    return Found(seconds=seconds, gigabytes=(after - before) / 1e9)


def measured_alone(cell: Cell, settings: Growth) -> Found:
    """Measure a cell in a process of its own, whose memory is the cell's."""
    # Its server has imported everything, and computed nothing.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as process:
        return process.submit(measured, cell, settings).result()


def step_times(model: ChatformerForConditionalGeneration, cell: Cell, settings: Growth, *, length: int) -> list[float]:
    """The seconds of training steps, but for the first."""
    ready_to_train(model.train(), CPU, compiled=False)
    if cell.kind == "full, fused":
        model.set_attn_implementation("sdpa")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    num_source, num_target = (length, SHORT) if cell.measure == "read" else (SHORT, length)
    source, labels = (torch.randint(3, VOCABULARY, (1, num)) for num in (num_source, num_target))
    seconds = []
    for _ in range(1 + settings.repetitions):
        began = time.process_time()
        model(source, torch.ones_like(source), labels=labels, label_smoothing=0.1, return_logits=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.process_time() - began)
    return seconds[1:]


class Clock(LogitsProcessor):
    """Notes when each token is chosen."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, _: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.times.append(time.process_time())
        return scores


def token_times(model: ChatformerForConditionalGeneration, cell: Cell, settings: Growth, *, length: int) -> list[float]:
    """The seconds between tokens behind `length` tokens of a reply."""
    source, reply = (torch.randint(3, VOCABULARY, (1, num)) for num in (SHORT, length))
    clock = Clock()
    num_new = settings.num_new_tokens + 1
    model.eval().generate(
        source,
        decoder_input_ids=reply,
        logits_processor=LogitsProcessorList([clock]),
        max_new_tokens=num_new,
        min_new_tokens=num_new,
    )
    return np.diff(clock.times).tolist()


def growth_of(figures: dict[int, float]) -> float:
    """The exponent p of the power of the length that fits the figures."""
    lengths = [length for length in figures if length >= LEAST_OF_A_FIT and figures[length] > 0]
    if len(lengths) < 2:
        return math.nan
    return float(np.polyfit(np.log(lengths), np.log([figures[length] for length in lengths]), 1)[0])


def measure_growth(settings: Growth) -> None:
    """Measure all cells, each in a process of its own, and print a table for each measure."""
    cells = [
        Cell(measure=measure, kind=kind, length=length)
        for measure in settings.measures
        for length in settings.lengths
        for kind in settings.kinds
        # Both generate by the fused attention.
        if not (measure == "token" and kind == "full, fused")
    ]
    found: dict[Cell, Found] = {}
    for cell in cells:
        if gigabytes_of(cell, settings.size) <= settings.most_gigabytes:
            found[cell] = measured_alone(cell, settings)
            print(f"{cell.measure}, {cell.kind}, {cell.length:,} tokens: {found[cell]}", file=sys.stderr)
    for measure in settings.measures:
        for name, unit, figure in (
            ("seconds", "milliseconds", lambda each: 1e3 * each.seconds),
            ("memory", "megabytes", lambda each: 1e3 * each.gigabytes),
        ):
            rows = rows_of(settings, measure, found, figure)
            title = f"{measure}: {name} in {unit}, and how many times less than {settings.kinds[0]}"
            print_table(title, ["tokens", *settings.kinds], rows, markdown=settings.markdown)
    entries = [{**asdict(cell), **asdict(each)} for cell, each in found.items()]
    write_figures(settings.output_file, settings=asdict(settings), found=entries)


def rows_of(
    settings: Growth, measure: Measure, found: dict[Cell, Found], figure: Callable[[Found], float]
) -> list[list[str]]:
    """A row for each length, and the growth."""
    by_kind: dict[Kind, dict[int, float]] = {
        kind: {
            cell.length: figure(each) for cell, each in found.items() if (cell.measure, cell.kind) == (measure, kind)
        }
        for kind in settings.kinds
    }
    first = by_kind[settings.kinds[0]]
    rows = []
    for length in settings.lengths:
        texts = []
        for figures in by_kind.values():
            text = f"{figures[length]:,.3g}" if length in figures else "-"
            if figures is not first and length in figures and first.get(length) and figures[length]:
                text += f" ({first[length] / figures[length]:.1f})"
            texts.append(text)
        rows.append([f"{length:,}", *texts])
    rows.append(["grows with the power", *(f"{growth_of(figures):.2f}" for figures in by_kind.values())])
    return rows


def write_conversations(settings: Quality) -> tuple[Path, Path]:
    """
    Write the inputs whose last question is about their first exchange, and the answers: to learn, and to measure.

    Those to learn are of all lengths, each doubling as often, since what is far back is first found nearby; the answers
    of the corpus alone are learnt beside them. Those to measure are long, and about conversations that were kept out.
    """
    follow_ups, others = (
        [json.loads(line)["messages"] for line in starter_file(name).read_text("utf-8").splitlines()]
        for name in ("follow_ups.jsonl", "conversations.jsonl")
    )
    texts = ["\n".join(message["content"] for message in messages) for messages in others]
    tokenizer = train_tokenizer(texts, vocab_size=4000)
    lengths = [len(ids) for ids in tokenizer(texts)["input_ids"]]
    chance = random.Random(0)

    def row(messages: list[dict[str, str]], most_tokens: float) -> tuple[str, str]:
        parts, num_tokens = [messages[0]["content"], messages[1]["content"]], LEAST_TOKENS
        while True:
            index = chance.randrange(len(texts))
            num_tokens += lengths[index]
            if num_tokens > most_tokens:
                break
            parts.append(texts[index])
        return "\n".join([*parts, f"처음 이야기로 돌아가서, {messages[2]['content']}"]), messages[3]["content"]

    chance.shuffle(follow_ups)
    kept_out, learnt = follow_ups[: settings.num_kept_out], follow_ups[settings.num_kept_out :]
    doublings = math.log2(settings.num_tokens / LEAST_TOKENS)
    to_learn = [
        row(messages, LEAST_TOKENS * 2 ** chance.uniform(0, doublings))
        for messages in learnt
        for _ in range(settings.num_versions)
    ]
    alone = [(messages[0]["content"], messages[1]["content"]) for messages in others]
    to_measure = [row(messages, settings.num_tokens) for messages in kept_out for _ in range(2)]
    files = settings.output_dir / "training.csv", settings.output_dir / "validation.csv"
    for path, rows in zip(files, ([*alone, *to_learn], to_measure), strict=True):
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("question", "answer"), *rows])
    return files


def quality_of(folder: Path) -> dict[str, float]:
    """What training and evaluation wrote into a model's folder."""
    records = Records.read(folder)
    measured = records.evaluation["figures"]["all"]
    names = ("bits_per_character", "source_gain", "exact_match", "chrf")
    return {
        "steps": records.record["overview"]["steps"],
        "minutes": records.log[-1]["seconds"] / 60,
        **{name: measured[name] for name in names},
    }


def measure_quality(settings: Quality) -> None:
    """Train and evaluate each contestant, and print a table."""
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    training, validation = write_conversations(settings)
    rows, figures = [], {}
    for kind in settings.kinds:
        folder = settings.output_dir / kind
        if not (folder / "evaluation.json").exists():
            task = ["--data", training, "--validation-data", validation, "--max-source-tokens", 2048]
            plan = ["--minutes", settings.minutes, "--size", "tiny", "--vocab-size", 4000, "--tokens-per-step", 2000]
            judge = ["--max-eval-replies", 0, "--metric-for-best-model", "last", "--dropout", 0, "--bpe-dropout", 0]
            run_flags = ["--self-attention", kind, "--seed", settings.seed, "--overwrite-output-dir"]
            chatformer("train", *task, *plan, *judge, *run_flags, "--output-dir", folder)
            chatformer("evaluate", folder)
        figures[kind] = quality_of(folder)
        form = {"steps": ",", "minutes": ".1f", "exact_match": ".1f", "chrf": ".1f"}
        rows.append([kind, *(format(value, form.get(name, ".3f")) for name, value in figures[kind].items())])
    columns = ["", *(name.replace("_", " ") for name in figures[settings.kinds[0]])]
    print_table(f"Conversations of {settings.num_tokens:,} tokens", columns, rows, markdown=settings.markdown)
    write_figures(settings.output_file, settings=asdict(settings), found=figures)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as a command line says; return the exit status."""

    def work(settings: Growth | Quality) -> None:
        measure_growth(settings) if isinstance(settings, Growth) else measure_quality(settings)

    # A union of settings is a choice of subcommands.
    return run(work, Growth | Quality, arguments, prog="sparse.py", description=__doc__)  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
