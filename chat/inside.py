"""
What happens inside a model while it replies: tokens, attention, the likeliest next tokens, the beams of a search.

Letters after a tensor's name are its axes: B batch, H heads, Q queries, K keys, S source tokens, T target tokens,
V vocabulary.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from chatformer.one_script import one_script
from chatformer.pictures import in_words

from .engines import Ids

AttentionName = Literal["cross", "encoder", "decoder"]
"""The three attentions of Section 3.2.3: decoder to encoder, within the encoder, within the decoder."""


@dataclass(frozen=True)
class Token:
    """An id and the piece of text that it is."""

    id: int
    text: str
    is_special: bool
    """True for the tokens of the chat template, such as those that begin a turn."""


@dataclass(frozen=True, kw_only=True)
class Attention:
    """The weights of one of the three attentions, for one reply."""

    weights_LHQK: np.ndarray
    """By layer and head, how much each query looks at each key; a row sums to 1."""
    queries: list[Token]
    keys: list[Token]

    def without_special(self) -> "Attention":
        """The same weights without the rows and columns of special tokens; a row then sums to less than 1."""
        rows, columns = plain(self.queries), plain(self.keys)
        return Attention(
            weights_LHQK=self.weights_LHQK[:, :, rows][:, :, :, columns],
            queries=[self.queries[row] for row in rows],
            keys=[self.keys[column] for column in columns],
        )


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the model thought of at one token of the reply."""

    chosen: Token
    probability: float
    likeliest: list[tuple[Token, float]]
    """The likeliest tokens and their probabilities, the likeliest first."""


@dataclass(frozen=True, kw_only=True)
class Inside:
    """One reply, seen from the inside."""

    source: list[Token]
    reply: list[Token]
    attentions: dict[AttentionName, Attention]
    steps: list[Step]


@dataclass(frozen=True, kw_only=True)
class Beam:
    """A beginning of a reply that a beam search went through."""

    token: Token
    parent: int | None
    """The number of the beginning that is one token shorter, or None for the first token."""
    log_probability: float
    """The sum over all tokens so far, as the search has it."""
    rank: int | None
    """1 for the reply, 2 for the second best and so on; None for what is no complete reply."""


def tokens_of(tokenizer: Any, ids: Ids) -> list[Token]:
    """Ids as tokens to show."""
    special = set(tokenizer.all_special_ids)
    names = tokenizer.convert_ids_to_tokens(list(ids))
    # A model may have more rows than its tokenizer has tokens.
    return [
        Token(id, in_words(name or f"<{id}>"), id in special) for id, name in zip(map(int, ids), names, strict=True)
    ]


def plain(tokens: Sequence[Token]) -> list[int]:
    """The places of the tokens that are not special."""
    return [place for place, token in enumerate(tokens) if not token.is_special]


@torch.inference_mode()
def look_inside(model: Any, tokenizer: Any, source_ids: Ids, reply_ids: Ids, *, num_likeliest: int = 10) -> Inside:
    """
    Read a source and its reply once, as training does, and keep the weights of all attentions.

    The probabilities are the model's own, before a penalty or a temperature changes them.
    """
    previous_ids = [model.config.decoder_start_token_id, *reply_ids[:-1]]
    outputs = model(
        input_ids=torch.tensor([list(source_ids)], device=model.device),
        decoder_input_ids=torch.tensor([previous_ids], device=model.device),
        # Of the recurrent models, some have none.
        output_attentions=getattr(model.config, "attention", True),
        use_cache=False,
    )
    source, previous, reply = (tokens_of(tokenizer, ids) for ids in (source_ids, previous_ids, reply_ids))
    found: dict[AttentionName, tuple[Sequence[Tensor] | None, list[Token], list[Token]]] = {
        # The row of the cross-attention that predicts a token is named after this token.
        "cross": (outputs.cross_attentions, reply, source),
        "encoder": (outputs.encoder_attentions, source, source),
        "decoder": (outputs.decoder_attentions, previous, previous),
    }
    probabilities_TV = outputs.logits[0].float().softmax(-1)
    return Inside(
        source=source,
        reply=reply,
        attentions={
            name: Attention(weights_LHQK=stacked(weights), queries=queries, keys=keys)
            for name, (weights, queries, keys) in found.items()
            # A recurrent model has the first of them only.
            if weights is not None
        },
        steps=[
            Step(
                chosen=token,
                probability=float(probabilities_V[token.id]),
                likeliest=likeliest(tokenizer, probabilities_V, num_likeliest),
            )
            for token, probabilities_V in zip(reply, probabilities_TV, strict=True)
        ],
    )


def stacked(weights_of_layers: Sequence[Tensor]) -> np.ndarray:
    """The weights of all layers, (L, H, Q, K), from one (1, H, Q, K) a layer."""
    return torch.cat(list(weights_of_layers)).float().cpu().numpy()


def likeliest(tokenizer: Any, probabilities_V: Tensor, number: int) -> list[tuple[Token, float]]:
    """The tokens of the highest probabilities."""
    top = probabilities_V.topk(min(number, len(probabilities_V)))
    return list(zip(tokens_of(tokenizer, top.indices.tolist()), top.values.tolist(), strict=True))


class Recorder(LogitsProcessor):
    """Keeps every beginning that a beam search continues, and what its next tokens would cost."""

    def __init__(self) -> None:
        self.next_of: dict[tuple[int, ...], Tensor] = {}
        """By beginning, the log-probability of each next token."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        for ids, scores_V in zip(input_ids.tolist(), scores, strict=True):
            self.next_of.setdefault(tuple(ids), scores_V.clone())
        return scores


@torch.inference_mode()
def beam_tree(model: Any, tokenizer: Any, source_ids: Ids, search: GenerationConfig) -> list[Beam]:
    """
    What a beam search went through: the beginnings that were continued, and the complete replies.

    A parent comes before its children.
    """
    recorder = Recorder()
    search = GenerationConfig.from_dict({**search.to_dict(), "num_return_sequences": search.num_beams})
    replies = model.generate(
        torch.tensor([list(source_ids)], device=model.device),
        generation_config=search,
        # After the search's own, such as a penalty: the scores by which the search decides.
        logits_processor=LogitsProcessorList([*one_script(model, tokenizer), recorder]),
    ).tolist()
    end = model.generation_config.eos_token_id
    ends = set(end if isinstance(end, list) else [end])
    ranks: dict[tuple[int, ...], int] = {}
    for rank, ids in enumerate(replies, start=1):
        length = next((place for place, id in enumerate(ids) if place and id in ends), len(ids) - 1) + 1
        ranks.setdefault(tuple(ids[:length]), rank)
    return grown(recorder.next_of, ranks, tokenizer)


def grown(
    next_of: Mapping[tuple[int, ...], Tensor], ranks: Mapping[tuple[int, ...], int], tokenizer: Any
) -> list[Beam]:
    """The tree of all beginnings, each of which begins with the start token."""
    beams: list[Beam] = []
    numbers: dict[tuple[int, ...], int] = {}
    for ids in sorted({*next_of, *ranks}, key=lambda ids: (len(ids), ids)):
        if len(ids) == 1:
            continue
        # The first step has as many beams as the later ones; all but one are the start token with no chance.
        parent = numbers.get(ids[:-1])
        before = 0.0 if parent is None else beams[parent].log_probability
        cost = float(next_of[ids[:-1]][ids[-1]])
        numbers[ids] = len(beams)
        (token,) = tokens_of(tokenizer, ids[-1:])
        beams.append(
            Beam(
                token=token,
                parent=parent,
                log_probability=before + cost if math.isfinite(cost) else -math.inf,
                rank=ranks.get(ids),
            )
        )
    return beams


def beam_places(tree: Sequence[Beam]) -> tuple[list[int], list[float]]:
    """The depth and the height of each beginning: a leaf has its own line, any other the middle of its children."""
    depths: list[int] = []
    children: dict[int | None, list[int]] = {}
    for number, beam in enumerate(tree):
        depths.append(0 if beam.parent is None else depths[beam.parent] + 1)
        children.setdefault(beam.parent, []).append(number)
    heights, lines = [0.0] * len(tree), 0
    # Depth first: the leaves below one beginning get neighbouring lines.
    stack = [(number, False) for number in reversed(children.get(None, []))]
    while stack:
        number, is_done = stack.pop()
        below = children.get(number, [])
        if not below:
            heights[number], lines = float(lines), lines + 1
        elif is_done:
            heights[number] = sum(heights[child] for child in below) / len(below)
        else:
            stack += [(number, True), *((child, False) for child in reversed(below))]
    return depths, heights
