"""
The proof that a converted model answers as its source does.

The converted model answers some sentences greedily, step by step with its cache, and keeps its log-probabilities over
the full vocabulary. The source model then reads the same replies in one pass, and all numbers are compared. So both
have the same greedy replies, unless two tokens are closer to each other than the allowed difference.

Letters behind a tensor's name are its axes: T target tokens, V vocabulary.
"""

import dataclasses
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from chatformer import __version__
from chatformer.conversation import encode_conversation
from chatformer.hub.errors import HubError
from chatformer.padding import padded_sources
from chatformer.storage.explaining import first_line
from chatformer.storage.names import CONVERSION_FILE
from chatformer.storage.writing import write_json

SENTENCES = (
    "안녕하세요!",
    "오늘 기분이 좀 우울해.",
    "주말에 뭐 하면 좋을까?",
    "저녁으로 뭘 먹을지 모르겠어.",
    "어텐션이 뭐야?",
    "고마워, 덕분에 힘이 났어.",
    "Hello, how are you?",
    "I am hungry and I cannot decide what to cook.",
    "What is a Transformer?",
    "The train leaves at half past seven, doesn't it?",
    "Yesterday we walked along the river until it got dark.",
    "Thanks!",
)
"""The sentences to compare on unless the user gives a file: everyday Korean and English, short and long."""

MAX_SOURCE_TOKENS = 256
MAX_REPLY_TOKENS = 32
NUM_RANDOM_SOURCES = 12

TOLERANCES = {"float32": 1e-4, "float16": 0.05, "int8": 2.0, "int8_float32": 2.0}
"""The largest difference of a log-probability, over the full vocabulary, that each precision allows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reply:
    """A greedy reply with its end token, and the log-probabilities that it was chosen by."""

    ids: list[int]
    log_probs_TV: torch.Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """How far a converted model is from its source."""

    num_sentences: int
    num_equal_replies: int
    largest_difference: float
    mean_difference: float
    allowed_difference: float

    def __str__(self) -> str:
        return (
            f"log-probabilities differ by at most {self.largest_difference:.1e} "
            f"({self.mean_difference:.1e} on average; {self.allowed_difference:g} is allowed), and "
            f"{self.num_equal_replies} of {self.num_sentences} greedy replies are equal"
        )


def read_sentences(path: str | None) -> list[str]:
    """The lines of a text file, or the built-in sentences."""
    if path is None:
        return list(SENTENCES)
    try:
        lines = [line.strip() for line in Path(path).read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise HubError(f"--sentences {path} could not be read as UTF-8 text: {first_line(error)}") from error
    sentences = [line for line in lines if line]
    if not sentences:
        raise HubError(f"--sentences {path} has no sentence: write one on each line.")
    return sentences


def encode_sentences(tokenizer: Any, sentences: Sequence[str]) -> list[list[int]]:
    """The ids of each sentence: as the first turn of a conversation, or as plain text if there is no chat template."""
    if tokenizer.chat_template is None:
        return [tokenizer(sentence).input_ids[:MAX_SOURCE_TOKENS] for sentence in sentences]
    return [
        encode_conversation(tokenizer, [{"role": "user", "content": sentence}], MAX_SOURCE_TOKENS)
        for sentence in sentences
    ]


def random_sources(vocab_size: int) -> list[list[int]]:
    """Sources to compare on if there is no tokenizer."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(vocab_size, (length,), generator=generator).tolist()
        for length in range(1, 2 * NUM_RANDOM_SOURCES, 2)
    ]


def end_tokens(config: Any) -> set[int]:
    """The ids that end a reply."""
    ids = config.eos_token_id
    return set(ids) if isinstance(ids, list) else set() if ids is None else {ids}


def greedy_reply(config: Any, step: Callable[[int], torch.Tensor]) -> Reply:
    """
    Take the most probable token at each step.

    `step` reads one more target token and returns the logits of the next, (V,).
    """
    ids: list[int] = []
    rows = []
    while len(ids) < MAX_REPLY_TOKENS and not end_tokens(config).intersection(ids[-1:]):
        rows.append(step(ids[-1] if ids else config.decoder_start_token_id).float().log_softmax(-1))
        ids.append(int(rows[-1].argmax()))
    return Reply(ids=ids, log_probs_TV=torch.stack(rows))


@torch.inference_mode()
def torch_reply(model: Any, source: Sequence[int]) -> Reply:
    """The greedy reply of a transformers model, computed with its cache."""
    inputs = padded_sources([source])
    memory = model.get_encoder()(**inputs, return_dict=True)
    cache = None

    def step(token: int) -> torch.Tensor:
        nonlocal cache
        outputs = model(
            attention_mask=inputs["attention_mask"],
            encoder_outputs=memory,
            decoder_input_ids=torch.tensor([[token]]),
            past_key_values=cache,
            use_cache=True,
        )
        cache = outputs.past_key_values
        return outputs.logits[0, -1]

    return greedy_reply(model.config, step)


@torch.inference_mode()
def compare(model: Any, sources: Sequence[Sequence[int]], replies: Sequence[Reply], precision: str) -> Comparison:
    """
    Compare a converted model's greedy replies to `sources` with the log-probabilities of `model`.

    Raises a `HubError` if they differ by more than the precision allows.
    """
    num_equal = 0
    differences = []
    for source, reply in zip(sources, replies, strict=True):
        logits_TV = model(
            **padded_sources([source]),
            decoder_input_ids=torch.tensor([[model.config.decoder_start_token_id, *reply.ids[:-1]]]),
        ).logits[0]
        expected_TV = logits_TV.float().log_softmax(-1)
        if expected_TV.shape != reply.log_probs_TV.shape:
            raise HubError(
                f"The converted model does not answer as its source: its log-probabilities have the shape "
                f"{tuple(reply.log_probs_TV.shape)} instead of {tuple(expected_TV.shape)}."
            )
        # A token that both models forbid has two infinities, whose difference would be NaN.
        difference_TV = (reply.log_probs_TV - expected_TV).masked_fill(reply.log_probs_TV == expected_TV, 0.0)
        differences.append(difference_TV.abs().flatten())
        ended = len(reply.ids) == MAX_REPLY_TOKENS or reply.ids[-1] in end_tokens(model.config)
        num_equal += ended and expected_TV.argmax(-1).tolist() == reply.ids
    all_differences = torch.cat(differences)
    comparison = Comparison(
        num_sentences=len(sources),
        num_equal_replies=num_equal,
        largest_difference=all_differences.max().item(),
        mean_difference=all_differences.mean().item(),
        allowed_difference=TOLERANCES[precision],
    )
    # With `not <=`, NaN fails too.
    if not comparison.largest_difference <= comparison.allowed_difference:
        raise HubError(f"The converted model does not answer as its source: {comparison}.")
    return comparison


def write_record(
    folder: Path, *, source: str, commit: str | None, packages: Sequence[str], comparison: Comparison, **facts: str
) -> None:
    """Write what a folder was converted from, with which versions, and how close it is to its source."""
    record = {
        "converted_from": source,
        "commit": commit,
        **facts,
        "comparison": dataclasses.asdict(comparison),
        "versions": {"chatformer": __version__, **{name: metadata.version(name) for name in packages}},
    }
    write_json(folder / CONVERSION_FILE, record)
