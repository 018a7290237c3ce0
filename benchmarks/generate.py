"""
Replies, compared with peers: milliseconds a token for one question, tokens per second for many, in one run.

    python benchmarks/generate.py --model runs/korean --data ChatbotData.csv
    python benchmarks/generate.py --size base --num-threads 1 --markdown

The contestants answer in turn, for a few seconds each:

    chatformer                            transformers' generate(), as a model comes from `from_pretrained`
    chatformer-static                     the same with a cache of fixed size, which a GPU runs compiled
    marian-sdpa, marian-eager             transformers' MarianMTModel with the same weights
    bart-sdpa                             transformers' BartForConditionalGeneration of the same size, random weights
    ctranslate2-float32, ctranslate2-int8 CTranslate2 on what `chatformer export --to ctranslate2` writes

All answer the same questions of the validation data. Every reply has exactly --num-new-tokens tokens, so that all do
the same work: transformers gets no end token, and CTranslate2, which always has one, may not choose it. Contestants
with the same weights must also give the same replies when the end token is forbidden to all. The table says how many
replies of the largest batch are equal to the first contestant's; more than one in twenty that differs in float32 is an
error.

A contestant's share of the machine's rate is its operations per second (see the formula in benchmarks/machine.py),
divided by those of `torch.mm` in float32 with as many rows as the search has beams in a batch. For one question that is
the speed of reading the weights, not of arithmetic.
"""

import copy
import itertools
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import transformers
from accelerate.utils import set_seed
from machine import (
    DEVICE,
    ComparisonSettings,
    MatrixRate,
    check_comparison,
    decoder_flops,
    decoder_products,
    encoder_flops,
    matrix_rate,
    print_table,
    ratios,
    rounds,
    run,
    spread,
    synchronize,
    write_figures,
)
from peers import new_bart
from text import TextSettings, training_settings
from tqdm.auto import tqdm
from transformers import GenerationConfig

from chatformer.configuration.training import check_settings
from chatformer.data.exchanges import encode_exchanges
from chatformer.data.preparation import conversations_of, message_texts
from chatformer.data.tokenizer import train_tokenizer
from chatformer.hub.errors import optional_package
from chatformer.hub.formats.limits import check_one_embedding
from chatformer.hub.formats.marian_format import to_marian
from chatformer.storage.model_folder import ModelFolder
from chatformer.training.building import new_model

Name = Literal[
    "chatformer",
    "chatformer-static",
    "marian-sdpa",
    "marian-eager",
    "bart-sdpa",
    "ctranslate2-float32",
    "ctranslate2-int8",
]

OTHER_WEIGHTS = ("bart-sdpa",)
ROUNDED_WEIGHTS = ("ctranslate2-int8",)
LEAST_EQUAL = 0.95
"""Share of replies that must be equal where the weights are; the others are left to ties of two tokens."""

Replies = list[list[int]]
Replier = Callable[[Sequence[Sequence[int]], int, bool], Replies]
"""Returns the reply to each question, searched with so many beams, and perhaps without ever choosing the end token."""


@dataclass(frozen=True, kw_only=True)
class Settings(ComparisonSettings, TextSettings):
    """Measure how fast chatformer and its peers reply, side by side."""

    seconds: float = 2.0
    """Seconds of a turn that are measured; the reply at their end is finished."""
    warmup_seconds: float = 0.5
    """Seconds at the start of a turn that are not measured; at least one reply."""
    contestants: tuple[Name, ...] = tuple(name for name in get_args(Name) if name != "chatformer-static")
    """The contestants; the others are compared with the first one. On a CPU nothing is compiled, and a cache of fixed
    size only costs time."""
    model: str | None = None
    """Folder of a trained model, or its id on the Hub, with its own tokenizer; random weights of --size unless
    given."""
    num_beams: tuple[int, ...] = (1, 4)
    """Beams of the searches; 1 is greedy."""
    batch_sizes: tuple[int, ...] = (1, 64)
    """Questions that are answered at once."""
    num_new_tokens: int = 24
    """Tokens of every reply."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A contestant's work in some seconds: the time of each batch, and the lengths of the questions."""

    seconds: list[float]
    source_lengths: list[int]

    def seconds_per_batch(self) -> float:
        return statistics.median(self.seconds)

    def flops_per_second(self, config: Any, settings: Settings, num_beams: int) -> float:
        sources = np.array(self.source_lengths)
        targets = np.full_like(sources, settings.num_new_tokens)
        operations = encoder_flops(config, sources) + num_beams * decoder_flops(config, sources, targets)
        return operations / sum(self.seconds)


def under_transformers(model: Any, num_new_tokens: int, cache: str | None = None) -> Replier:
    """Have stock `generate()` reply."""
    config = model.config
    # What a call does not say comes from here, such as a model's own end token.
    model.generation_config = GenerationConfig()

    def reply(questions: Sequence[Sequence[int]], num_beams: int, forbid_end: bool) -> Replies:
        length = max(map(len, questions))
        padded = [[*question, *[config.pad_token_id] * (length - len(question))] for question in questions]
        input_ids = torch.tensor(padded, device=model.device)
        lengths = torch.tensor([[len(question)] for question in questions], device=model.device)
        generated = model.generate(
            input_ids,
            attention_mask=(torch.arange(length, device=model.device) < lengths).long(),
            generation_config=GenerationConfig(
                num_beams=num_beams,
                max_new_tokens=num_new_tokens,
                min_new_tokens=num_new_tokens if forbid_end else None,
                # As in CTranslate2 the tokens that are left share the forbidden one's probability.
                renormalize_logits=forbid_end,
                cache_implementation=cache,
                pad_token_id=config.pad_token_id,
                eos_token_id=config.eos_token_id if forbid_end else None,
                decoder_start_token_id=config.decoder_start_token_id,
            ),
        )
        # The first is the start.
        return generated[:, 1:].tolist()

    return torch.inference_mode()(reply)


def under_ctranslate2(model: Any, tokenizer: Any, quantization: str, num_new_tokens: int) -> Replier:
    """Have CTranslate2 reply, with as many threads as torch has."""
    ctranslate2 = optional_package("ctranslate2", extra="ctranslate2")
    from chatformer.hub.formats.ctranslate2_format import vocabulary, write_ctranslate2

    with tempfile.TemporaryDirectory() as folder:
        write_ctranslate2(model.cpu(), tokenizer, Path(folder), quantization=quantization)
        translator = ctranslate2.Translator(
            folder,
            device="cuda" if torch.cuda.is_available() else "cpu",
            compute_type=quantization,
            intra_threads=torch.get_num_threads(),
        )
    tokens = vocabulary(tokenizer, model.config.vocab_size)
    rows = {token: row for row, token in enumerate(tokens)}

    def reply(questions: Sequence[Sequence[int]], num_beams: int, forbid_end: bool) -> Replies:
        results = translator.translate_batch(
            [[tokens[row] for row in question] for question in questions],
            beam_size=num_beams,
            max_input_length=0,
            min_decoding_length=num_new_tokens,
            max_decoding_length=num_new_tokens,
        )
        return [[rows[token] for token in result.hypotheses[0]] for result in results]

    return reply


def make_replier(name: Name, model: Any, tokenizer: Any, num_new_tokens: int) -> Replier:
    """A contestant; all but BART have the model's weights."""
    kind, _, variant = name.partition("-")
    if kind == "ctranslate2":
        return under_ctranslate2(copy.deepcopy(model), tokenizer, variant, num_new_tokens)
    if kind == "chatformer":
        network = copy.deepcopy(model)
    elif kind == "bart":
        network = new_bart(model.config, variant)
    else:
        network = to_marian(model)
        network.set_attn_implementation(variant)
    cache = "static" if name == "chatformer-static" else None
    return under_transformers(network.to(DEVICE).eval(), num_new_tokens, cache)


def model_and_questions(settings: Settings) -> tuple[Any, Any, list[list[int]]]:
    """The model, its tokenizer, and the encoded questions of the validation data in a random order."""
    plain = training_settings(settings)
    check_settings(plain)
    training, validation = (loaded.conversations for loaded in conversations_of(plain))
    limits = plain.tokenizer.max_source_tokens, plain.tokenizer.max_target_tokens
    if settings.model is None:
        tokenizer = train_tokenizer(message_texts(training), settings.vocab_size)
        model = new_model(plain.model, tokenizer, max_new_tokens=settings.num_new_tokens)
    else:
        folder = ModelFolder.find(settings.model)
        model = folder.model(torch.float32)
        check_one_embedding(model, settings.model)
        tokenizer = folder.tokenizer(vocab_size=model.config.vocab_size)
    exchanges = encode_exchanges(validation, tokenizer, *limits)
    order = np.random.default_rng(settings.seed).permutation(len(exchanges))
    return model.eval(), tokenizer, [exchanges.source(int(index)).tolist() for index in order]


def batches_of(questions: Sequence[Sequence[int]], batch_size: int) -> list[list[Sequence[int]]]:
    """The questions in batches, the last one filled up with the first questions."""
    endless = itertools.cycle(questions)
    return [list(itertools.islice(endless, batch_size)) for _ in range(math.ceil(len(questions) / batch_size))]


def answer(
    replier: Replier, batches: Sequence[Sequence[Sequence[int]]], num_beams: int, *, at_least_seconds: float
) -> Turn:
    """Have a contestant answer one batch after the other, until the seconds are over."""
    seconds: list[float] = []
    source_lengths: list[int] = []
    for batch in itertools.cycle(batches):
        began = time.perf_counter()
        replier(batch, num_beams, False)
        synchronize()
        seconds.append(time.perf_counter() - began)
        source_lengths.extend(map(len, batch))
        if sum(seconds) >= at_least_seconds:
            break
    return Turn(seconds=seconds, source_lengths=source_lengths)


def equal_replies(
    repliers: Mapping[Name, Replier], questions: Sequence[Sequence[int]], settings: Settings, num_beams: int
) -> dict[Name, float]:
    """
    The share of replies that equal the first contestant's, for each contestant with the same weights.

    Raises a `ValueError` for one that computes something else.
    """
    first, *_ = repliers
    expected = repliers[first](questions, num_beams, True)
    shares: dict[Name, float] = {}
    for name, replier in repliers.items():
        replies = replier(questions, num_beams, True)
        if {len(reply) for reply in replies} != {settings.num_new_tokens}:
            raise ValueError(
                f"Every reply must have {settings.num_new_tokens} tokens, but {name} gave replies of "
                f"{sorted({len(reply) for reply in replies})}: the contestants would not do the same work."
            )
        if name in OTHER_WEIGHTS or first in OTHER_WEIGHTS:
            continue
        shares[name] = statistics.mean(reply == wanted for reply, wanted in zip(replies, expected, strict=True))
        if shares[name] < LEAST_EQUAL and not {name, first} & set(ROUNDED_WEIGHTS):
            raise ValueError(
                f"At least {LEAST_EQUAL:.0%} of {name}'s replies must be {first}'s, whose weights it has, but with "
                f"--num-beams {num_beams} only {shares[name]:.0%} are: one of them computes something else."
            )
    return shares


def compare(settings: Settings) -> None:
    """Have all contestants reply in turn, then print the tables and write all figures."""
    check_comparison(settings)
    for flag, values in (
        ("--num-beams", settings.num_beams),
        ("--batch-sizes", settings.batch_sizes),
        ("--num-new-tokens", [settings.num_new_tokens]),
    ):
        if not values or min(values) < 1:
            raise ValueError(f"{flag} must be at least 1, but it is {' '.join(map(str, values)) or 'not said'}.")
    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)
    transformers.utils.logging.set_verbosity_error()
    set_seed(settings.seed)
    model, tokenizer, questions = model_and_questions(settings)
    config = model.config
    repliers = {name: make_replier(name, model, tokenizer, settings.num_new_tokens) for name in settings.contestants}
    searches = list(itertools.product(settings.num_beams, settings.batch_sizes))
    batches = {size: batches_of(questions, size) for size in settings.batch_sizes}
    equal = {
        num_beams: equal_replies(repliers, batches[max(settings.batch_sizes)][0], settings, num_beams)
        for num_beams in settings.num_beams
    }

    turns: dict[tuple[int, int], dict[Name, list[Turn]]] = {
        search: {name: [] for name in repliers} for search in searches
    }
    rates: dict[tuple[int, int], list[MatrixRate]] = {search: [] for search in searches}
    bar = tqdm(total=settings.rounds * len(searches) * len(repliers), desc="turns", disable=None)
    for number, names in enumerate(rounds(repliers, settings.rounds)):
        for num_beams, batch_size in searches:
            # In each round other questions, and the same ones for all.
            first_batch = number * len(batches[batch_size]) // settings.rounds
            asked = batches[batch_size][first_batch:] + batches[batch_size][:first_batch]
            rates[num_beams, batch_size].append(
                matrix_rate(
                    decoder_products(config),
                    num_rows=num_beams * batch_size,
                    dtype=torch.float32,
                    device=DEVICE,
                    backward=False,
                    seconds=settings.seconds / 5,
                )
            )
            for name in names:
                answer(repliers[name], asked, num_beams, at_least_seconds=settings.warmup_seconds)
                turns[num_beams, batch_size][name].append(
                    answer(repliers[name], asked, num_beams, at_least_seconds=settings.seconds)
                )
                bar.update()
    bar.close()

    figures = []
    for search in searches:
        figures.append(report(settings, search, turns[search], rates[search], equal[search[0]], config))
    write_figures(settings.output_file, settings=asdict(settings), vocabulary=config.vocab_size, searches=figures)


def report(
    settings: Settings,
    search: tuple[int, int],
    turns: Mapping[Name, Sequence[Turn]],
    rates: Sequence[MatrixRate],
    equal: Mapping[Name, float],
    config: Any,
) -> dict[str, Any]:
    """Print the table of a search and return its figures."""
    num_beams, batch_size = search
    first, *_ = turns
    rows, figures = [], {}
    for name, taken in turns.items():
        seconds = [turn.seconds_per_batch() for turn in taken]
        milliseconds = [1000 * each / settings.num_new_tokens for each in seconds]
        speeds = [batch_size * settings.num_new_tokens / each for each in seconds]
        slower = ratios(seconds, [turn.seconds_per_batch() for turn in turns[first]])
        share = ratios(
            [turn.flops_per_second(config, settings, num_beams) for turn in taken], [rate.overall for rate in rates]
        )
        rows.append(
            [
                name,
                f"{spread(milliseconds).median:.2f}",
                f"{spread(speeds).median:,.0f}",
                "1" if name == first else f"{slower:.3g}",
                f"{share.median:.0%}",
                f"{equal[name]:.0%}" if name in equal else "other weights",
            ]
        )
        figures[name] = {
            "milliseconds_per_token": milliseconds,
            "tokens_per_second": speeds,
            "times_slower_than_the_first": asdict(slower),
            "share_of_the_matrix_rate": asdict(share),
            "share_of_equal_replies": equal.get(name),
        }
    searched = "greedy" if num_beams == 1 else f"{num_beams} beams"
    rate = spread([rate.overall / 1e9 for rate in rates])
    print_table(
        f"Replies of {settings.num_new_tokens} tokens, {searched}, {batch_size} at once, "
        f"{settings.model or settings.size}, vocabulary {config.vocab_size:,}, {torch.get_num_threads()} threads, "
        f"{settings.rounds} rounds; torch.mm with {num_beams * batch_size} rows: {rate:.1f} * 10^9 operations/s",
        ["contestant", "ms a token", "tokens/s", f"times slower than {first}", "share of torch.mm", "equal replies"],
        rows,
        markdown=settings.markdown,
    )
    return {
        "num_beams": num_beams,
        "batch_size": batch_size,
        "contestants": figures,
        "matrix_rates": [rate.overall for rate in rates],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare as a command line says; return the exit status."""
    return run(compare, Settings, arguments, prog="python benchmarks/generate.py", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
