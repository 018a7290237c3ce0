"""
Servers of one model, compared: requests a second, latency, time to the first text, memory, in one run.

    python benchmarks/serve.py --markdown
    python benchmarks/serve.py --contestants one-by-one grouped --num-clients 64 --seconds 30

The contestants, each a process of its own that is started, loaded and stopped in turn:

    one-by-one  `chatformer serve` with transformers' generate(), one request at a time
    ungrouped   CTranslate2 in 8 bits on all cores, a request a batch
    grouped     the same, requests that wait with the same search in one batch: what `chatformer serve` does
    litserve    LitServe over the same model of CTranslate2, with its batches of 32 and two workers
    ray         Ray Serve with two replicas of the app of `chatformer serve`

The last two need `pip install litserve 'chatformer[ray]'`.

The model has 4 + 4 layers, 13 million parameters and random weights; its end token is never the likeliest, so a reply
has as many tokens as the request allows, and all contestants do the same work. Clients ask again as soon as they have
their reply. They run on the same machine, and take their share of it from all alike.
"""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import psutil
import torch
from load import Figures, load
from machine import ComparisonSettings, check_comparison, print_table, ratios, rounds, run, spread, write_figures
from text import TextSettings, training_settings

from chatformer import ChatformerConfig, ChatformerForConditionalGeneration
from chatformer.data.preparation import conversations_of, message_texts
from chatformer.data.tokenizer import train_tokenizer
from chatformer.hub.formats.ctranslate2_format import write_ctranslate2

Name = Literal["one-by-one", "ungrouped", "grouped", "litserve", "ray"]
WITHOUT_STREAMS = ("litserve",)
SERVED_NAME = "model"
SECONDS_TO_START = 300
MAX_SOURCE_TOKENS = 128
RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # As all contestants: Ray would have its workers give way to every other process.
    "RAY_worker_niceness": "0",
    # On a busy machine its processes do not start within the seconds that it gives them.
    "RAY_agent_register_timeout_ms": "240000",
    "RAY_worker_register_timeout_seconds": "240",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "240",
}
"""Its settings, in the environment."""


@dataclass(frozen=True, kw_only=True)
class Settings(ComparisonSettings):
    """Measure how servers of one model bear a load."""

    rounds: int = 3
    """How often each contestant has its turn; each round gives a ratio of any two."""
    seconds: float = 10.0
    """Seconds of a turn that are measured, once for whole and once for streamed replies."""
    warmup_seconds: float = 3.0
    """Seconds before them that are not measured."""
    contestants: tuple[Name, ...] = get_args(Name)
    """Who takes part. The first one is whom the others are compared with."""
    num_clients: int = 32
    """Clients that ask at the same time."""
    num_new_tokens: tuple[int, int] = (6, 18)
    """Fewest and most tokens of a reply; each request draws its own number."""
    seed: int = 42
    """Of the weights, the questions and the lengths of the replies."""


def write_models(folder: Path, seed: int) -> list[str]:
    """Write the model for transformers and for CTranslate2; return questions of the corpus that it can read."""
    training, validation = (loaded.conversations for loaded in conversations_of(training_settings(TextSettings())))
    tokenizer = train_tokenizer(message_texts(training), 6000)
    tokenizer.model_max_length = MAX_SOURCE_TOKENS
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = ChatformerConfig(
        d_model=256,
        d_ff=2048,
        num_heads=8,
        encoder_layers=4,
        decoder_layers=4,
        vocab_size=len(tokenizer),
        decoder_start_token_id=tokenizer.bos_token_id,
        **ids,
    )
    torch.manual_seed(seed)
    model = ChatformerForConditionalGeneration(config).eval()
    with torch.no_grad():
        # Of the random logits, some are always above 0.
        model.lm_head.weight[tokenizer.all_special_ids] = 0
    model.generation_config.max_new_tokens = 64
    model.save_pretrained(folder / "transformers")
    (folder / "ctranslate2").mkdir()
    write_ctranslate2(model, tokenizer, folder / "ctranslate2", quantization="int8")
    model.generation_config.save_pretrained(folder / "ctranslate2")
    for kind in ("transformers", "ctranslate2"):
        tokenizer.save_pretrained(folder / kind)
    return [made["messages"][0]["content"] for made in validation if made["messages"][0]["role"] == "user"]


def command(name: Name, folder: Path, port: int) -> list[str]:
    """What starts a contestant."""
    if name in ("litserve", "ray"):
        script = Path(__file__).parent / "serving_peers.py"
        return [sys.executable, str(script), name, str(folder / "ctranslate2"), str(port)]
    serve = [sys.executable, "-m", "chatformer.cli.main", "serve"]
    options = ["--port", str(port), "--model-name", SERVED_NAME]
    if name == "one-by-one":
        return [*serve, str(folder / "transformers"), *options, "--max-batch-size", "1"]
    options += ["--engine", "ctranslate2"]
    return [*serve, str(folder / "ctranslate2"), *options, *(["--max-batch-size", "1"] if name == "ungrouped" else [])]


@contextlib.contextmanager
def served(name: Name, folder: Path, log: Path) -> Iterator[tuple[int, psutil.Process]]:
    """Start a contestant; give its port and its process, and end it and its children afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | RAY | {"HF_HUB_OFFLINE": "1"}
    with log.open("wb") as output:
        started = subprocess.Popen(command(name, folder, port), env=environment, stdout=output, stderr=output)
    process = psutil.Process(started.pid)
    try:
        end = time.monotonic() + SECONDS_TO_START
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read()
                break
            if started.poll() is not None or time.monotonic() > end:
                raise ValueError(f"{name} did not serve:\n{log.read_text('utf-8', errors='replace')[-2000:]}")
            time.sleep(0.2)
        yield port, process
    finally:
        family = []
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [*process.children(recursive=True), process]
        started.terminate()
        _, alive = psutil.wait_procs(family, timeout=20)
        for left in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        started.wait()


def memory_of(process: psutil.Process) -> int:
    """The bytes that a process and its children have, what they share counted once."""
    total = 0
    for each in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            information = each.memory_full_info()
            total += getattr(information, "pss", information.rss)
    return total


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What a contestant did in a round."""

    whole: Figures
    streamed: Figures | None
    memory: int


def take_turn(name: Name, folder: Path, bodies: Sequence[dict[str, Any]], settings: Settings) -> Turn:
    def loaded(port: int, **changes: Any) -> Figures:
        figures = asyncio.run(
            load(
                port,
                [body | changes for body in bodies],
                num_clients=settings.num_clients,
                warmup_seconds=settings.warmup_seconds,
                seconds=settings.seconds,
            )
        )
        if figures.num_failures or not figures.latencies:
            raise ValueError(f"{name} answered {len(figures.latencies)} requests and failed {figures.num_failures}.")
        return figures

    with served(name, folder, folder / f"{name}.log") as (port, process):
        whole = loaded(port)
        streamed = None if name in WITHOUT_STREAMS else loaded(port, stream=True)
        return Turn(whole=whole, streamed=streamed, memory=memory_of(process))


def compare(settings: Settings) -> None:
    """Load every server in turn, then print the table and write all figures."""
    check_comparison(settings)
    least, most = settings.num_new_tokens
    if not 1 <= least <= most <= 64:
        raise ValueError(
            f"--num-new-tokens must be two numbers of 1 to 64, the fewest first, but it is {least} {most}."
        )
    folder = Path(tempfile.mkdtemp(prefix="chatformer-serve-"))
    try:
        questions = write_models(folder, settings.seed)
        chance = np.random.default_rng(settings.seed)
        bodies = [
            {
                "model": SERVED_NAME,
                "messages": [{"role": "user", "content": str(question)}],
                "max_tokens": int(chance.integers(least, most + 1)),
                "temperature": 0,
            }
            for question in chance.choice(questions, 100 * settings.num_clients)
        ]
        turns: dict[Name, list[Turn]] = {name: [] for name in settings.contestants}
        for names in rounds(settings.contestants, settings.rounds):
            for name in names:
                turns[name].append(take_turn(name, folder, bodies, settings))
                print(f"{name}: {turns[name][-1].whole.rate:.0f} requests/s", file=sys.stderr, flush=True)
        report(settings, turns)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def report(settings: Settings, turns: Mapping[Name, Sequence[Turn]]) -> None:
    """Print the table and write the figures."""
    first, *_ = turns
    rows, figures = [], {}
    for name, taken in turns.items():
        rates = [turn.whole.rate for turn in taken]
        faster = ratios(rates, [turn.whole.rate for turn in turns[first]])
        streams = [turn.streamed for turn in taken if turn.streamed is not None]
        first_texts = [float(np.median(stream.first_texts)) for stream in streams]
        rows.append(
            [
                name,
                f"{spread(rates):.0f}",
                "1" if name == first else f"{faster:.1f}",
                f"{1000 * spread([turn.whole.percentile(50) for turn in taken]).median:.0f}",
                f"{1000 * spread([turn.whole.percentile(99) for turn in taken]).median:.0f}",
                f"{spread([stream.rate for stream in streams]):.0f}" if streams else "none",
                f"{1000 * spread(first_texts).median:.0f}" if streams else "none",
                f"{spread([turn.memory / 2**20 for turn in taken]).median:.0f}",
            ]
        )
        figures[name] = {
            "requests_per_second": rates,
            "times_faster_than_the_first": asdict(faster),
            "p50_seconds": [turn.whole.percentile(50) for turn in taken],
            "p99_seconds": [turn.whole.percentile(99) for turn in taken],
            "streamed_requests_per_second": [stream.rate for stream in streams],
            "first_text_seconds": first_texts,
            "memory_bytes": [turn.memory for turn in taken],
        }
    columns = ["server", "requests/s", f"times {first}", "p50 ms", "p99 ms", "streamed/s", "first text ms", "MiB"]
    least, most = settings.num_new_tokens
    title = (
        f"{settings.num_clients} clients, replies of {least} to {most} tokens, 13 million parameters, "
        f"{os.cpu_count()} cores, {settings.rounds} rounds of {settings.seconds:g} s"
    )
    print_table(title, columns, rows, markdown=settings.markdown)
    write_figures(settings.output_file, settings=asdict(settings), contestants=figures)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare as a command line says; return the exit status."""
    return run(compare, Settings, arguments, prog="python benchmarks/serve.py", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
