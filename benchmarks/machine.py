"""
How the benchmarks measure: slices of time in turn, ratios by pairs, and the machine's own rate of products.

A machine's speed drifts, with its temperature and its other users, by more than the differences to measure. So the
contestants take turns, each for a short slice of time, and two of them are compared only within a round. The ratios of
all rounds have a minimum, a median and a maximum.

The floating-point operations of a model are those of its matrix products, counted from its sizes and from the useful
tokens, padding left out. With S and T the tokens of a source and of its target, d = d_model, f = d_ff, V = vocab_size,
N and M the layers of the encoder and of the decoder, a forward pass multiplies and adds

    S (N (4 d d + 2 d f) + M 2 d d)             the encoder; the keys and values of the decoder's cross-attention
    + T (M (6 d d + 2 d f) + d V)               the decoder, the output layer
    + 2 d (N S S + M (T (T + 1) / 2 + T S))     the attentions, of which a target does not see what lies ahead

times, each counted as two operations. The backward pass takes twice as many, so a training step takes three times as
many as a forward pass.
"""

import os
import platform
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch.utils.benchmark import Timer

from chatformer.data.messages import DataError
from chatformer.storage.writing import write_json

Name = TypeVar("Name", bound=str)

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
"""The precisions of which the machine's rate is measured."""

# Without an argument torch names the accelerator that it was built for, even if the machine has none.
DEVICE = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class ComparisonSettings:
    """How long to measure, and where the figures go."""

    rounds: int = 10
    """How often each contestant has its turn; each round gives a ratio of any two."""
    seconds: float = 5.0
    """Seconds of a turn that are measured; the step at their end is finished."""
    warmup_seconds: float = 1.0
    """Seconds at the start of a turn that are not measured, while caches fill; at least one step."""
    num_threads: int | None = None
    """Threads of the CPU for each contestant; torch's own number unless given."""
    markdown: bool = False
    """Print the tables in Markdown, as docs/speed.md has them."""
    output_file: Path | None = None
    """JSON file for every figure of every round."""


def check_comparison(settings: ComparisonSettings) -> None:
    """Raise a `ValueError` for settings that cannot be measured."""
    for flag, value in (("--rounds", settings.rounds), ("--num-threads", settings.num_threads)):
        if value is not None and value < 1:
            raise ValueError(f"{flag} must be at least 1, but it is {value}.")
    for flag, seconds in (("--seconds", settings.seconds), ("--warmup-seconds", settings.warmup_seconds)):
        if not seconds >= 0:
            raise ValueError(f"{flag} must be at least 0, but it is {seconds}.")


def rounds(contestants: Iterable[Name], number: int) -> Iterator[list[Name]]:
    """Yield the order of each round; every other one is reversed, so that a steady drift cancels."""
    names = list(contestants)
    for index in range(number):
        yield names if index % 2 == 0 else names[::-1]


def synchronize() -> None:
    """Wait for an accelerator to finish its work, if there is one."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A summary of the figures of all rounds."""

    minimum: float
    median: float
    maximum: float

    def __format__(self, form: str) -> str:
        return f"{self.median:{form}} ({self.minimum:{form}} to {self.maximum:{form}})"


def spread(figures: Sequence[float]) -> Spread:
    return Spread(minimum=min(figures), median=statistics.median(figures), maximum=max(figures))


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """The spread of the ratios of pairs, the two figures of each round."""
    return spread([above / below for above, below in zip(numerators, denominators, strict=True)])


def encoder_products(config: Any) -> Counter[tuple[int, int]]:
    """The sizes, inputs and outputs, of the matrices that each source token is multiplied by, and how often."""
    d_model, d_ff = config.d_model, config.d_ff
    products: Counter[tuple[int, int]] = Counter()
    products[d_model, d_model] += 4 * config.encoder_layers + 2 * config.decoder_layers
    products[d_model, d_ff] += config.encoder_layers
    products[d_ff, d_model] += config.encoder_layers
    return products


def decoder_products(config: Any) -> Counter[tuple[int, int]]:
    """The same for each target token."""
    d_model, d_ff = config.d_model, config.d_ff
    products: Counter[tuple[int, int]] = Counter()
    products[d_model, d_model] += 6 * config.decoder_layers
    products[d_model, d_ff] += config.decoder_layers
    products[d_ff, d_model] += config.decoder_layers
    products[d_model, config.vocab_size] += 1
    return products


def encoder_flops(config: Any, source_lengths: np.ndarray) -> int:
    """The operations that sources take: see the top of this file."""
    sources = source_lengths.astype(np.int64)
    pairs = config.encoder_layers * sources**2
    return _flops(config, encoder_products(config), sources, pairs)


def decoder_flops(config: Any, source_lengths: np.ndarray, target_lengths: np.ndarray) -> int:
    """The operations that their targets take, read at once or token by token."""
    sources, targets = source_lengths.astype(np.int64), target_lengths.astype(np.int64)
    pairs = config.decoder_layers * (targets * (targets + 1) // 2 + targets * sources)
    return _flops(config, decoder_products(config), targets, pairs)


def _flops(config: Any, products: Counter[tuple[int, int]], tokens: np.ndarray, pairs: np.ndarray) -> int:
    weights = sum(inputs * outputs * count for (inputs, outputs), count in products.items())
    return 2 * (int(tokens.sum()) * weights + 2 * config.d_model * int(pairs.sum()))


@dataclass(frozen=True, kw_only=True)
class MatrixRate:
    """Operations per second of `torch.mm`: of each matrix's products, and of all as often as a model has them."""

    by_size: dict[tuple[int, int], float]
    overall: float


def matrix_rate(
    products: Mapping[tuple[int, int], int],
    *,
    num_rows: int,
    dtype: torch.dtype,
    device: torch.device,
    backward: bool,
    seconds: float,
) -> MatrixRate:
    """
    Measure how fast the machine multiplies `num_rows` tokens by matrices of these sizes, in about `seconds`.

    With `backward` the products of the backward pass count too: the gradients of the tokens and of the matrix.
    """
    by_size, operations, duration = {}, 0.0, 0.0
    for (inputs, outputs), count in products.items():
        x = torch.randn(num_rows, inputs, dtype=dtype, device=device)
        weight = torch.randn(outputs, inputs, dtype=dtype, device=device)
        y = torch.randn(num_rows, outputs, dtype=dtype, device=device)
        statements = ["torch.mm(x, weight.t())"]
        if backward:
            statements += ["torch.mm(y, weight)", "torch.mm(y.t(), x)"]
        timer = Timer(
            "; ".join(statements), globals={"x": x, "weight": weight, "y": y}, num_threads=torch.get_num_threads()
        )
        measured = timer.blocked_autorange(min_run_time=seconds / len(products)).median
        flops = 2 * num_rows * inputs * outputs * len(statements)
        by_size[inputs, outputs] = flops / measured
        operations += count * flops
        duration += count * measured
    return MatrixRate(by_size=by_size, overall=operations / duration)


def description() -> dict[str, Any]:
    """The machine, and the libraries that compute on it."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if DEVICE.type == "cuda" else DEVICE.type,
        "torch": torch.__version__,
    }


def processor() -> str:
    """The processor's name, if the system gives it."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def figure_cell(value: float | None) -> str:
    """A figure of a table, empty if there is none."""
    return "" if value is None else f"{value:.1f}"


def markdown_row(cells: Sequence[str]) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def markdown_head(columns: Sequence[str], *, texts: int = 1) -> str:
    """The first two lines of a table in Markdown, whose first columns are so many `texts`, and whose others figures."""
    return f"{markdown_row(columns)}\n{markdown_row(['---'] * texts + ['---:'] * (len(columns) - texts))}"


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1) -> str:
    """A table in Markdown, whose first columns are so many `texts`, and whose others figures; its last line ends."""
    return "\n".join([markdown_head(columns, texts=texts), *map(markdown_row, rows)]) + "\n"


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool) -> None:
    """Print a table whose first column is text and whose others are figures."""
    if markdown:
        print(f"\n{title}\n\n{markdown_table(columns, rows)}", end="")
        return
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=number == 0)
    for row in rows:
        table.add_row(*row)
    # A file has no width of its own.
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def print_matrix_rates(rates: Mapping[str, Sequence[MatrixRate]], num_rows: int, *, markdown: bool) -> None:
    """Print the machine's rates of all rounds, by precision, in billions."""
    rows = []
    for size in next(iter(rates.values()))[0].by_size:
        by_precision = [spread([rate.by_size[size] / 1e9 for rate in measured]) for measured in rates.values()]
        rows.append([f"{size[0]} to {size[1]}", *(f"{rate:.0f}" for rate in by_precision)])
    overall = [spread([rate.overall / 1e9 for rate in measured]) for measured in rates.values()]
    rows.append(["as often as the model has them", *(f"{rate:.0f}" for rate in overall)])
    title = f"torch.mm with {num_rows} rows, 10^9 operations per second"
    print_table(title, ["size of the matrix", *rates], rows, markdown=markdown)


def write_figures(path: Path | None, **figures: Any) -> None:
    """Write all figures as JSON, with a description of the machine."""
    if path is not None:
        write_json(path, {"machine": description(), **figures}, default=str)


def run(
    work: Callable[[Any], None], settings: type, arguments: Sequence[str] | None, *, prog: str, description: str | None
) -> int:
    """Do a benchmark's work with the settings of a command line; return the exit status."""
    try:
        work(tyro.cli(settings, args=arguments, prog=prog, description=description))
    except (DataError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
