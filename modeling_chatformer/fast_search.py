"""
Greedy search and sampling around a decoder without modules, and what beam search shares with them.

For each token, `generate()` asks and keeps what only some models, options and devices need. Here that is settled once.
What is known of the replies so far is in lists, where a CPU finds it sooner than in tensors. And questions that are
answered leave the batch.

Letters after a tensor's name are its axes: R rows, which are the questions or the beams of each question, T target
tokens so far, V vocabulary.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig
from transformers.cache_utils import EncoderDecoderCache
from transformers.generation import (
    EosTokenCriteria,
    InfNanRemoveLogitsProcessor,
    LogitNormalization,
    MaxLengthCriteria,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

MOST_THAT_STAY = 0.75
"""Share of the questions that are open, below which those that are answered leave: then all others are copied."""

ROW_BY_ROW = (
    *(InfNanRemoveLogitsProcessor, LogitNormalization, MinLengthLogitsProcessor, MinNewTokensLengthLogitsProcessor),
    *(NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor, SuppressTokensLogitsProcessor),
)
"""Processors for which it does not matter what else is in a batch, as any is that says so by `is_row_by_row`."""


class TokenByToken(Protocol):
    """A decoder that reads the replies token by token."""

    def __call__(self, ids_R: Tensor) -> Tensor:
        """Read the newest token of each row; return the logits after it, (R, V)."""

    def read(self, ids_RT: Tensor) -> None:
        """Read the first tokens of each row, which are the same for all beams of a question."""

    def follow(self, rows_R: Tensor) -> None:
        """Each beam goes on with what another of the same question has said."""

    def keep(self, questions: Tensor) -> None:
        """Go on with these questions alone."""

    def write(self, cache: EncoderDecoderCache) -> None:
        """Add the keys and values of all rows and of their sources to an empty cache."""


class Search:
    """What is the same for all tokens of a generation, and the scores and logits that are asked for."""

    def __init__(
        self,
        config: GenerationConfig,
        logits_processor: Any,
        stopping_criteria: Any,
        num_read: int,
        streamer: Any = None,
    ):
        """num_read: the number of tokens that a reply has already."""
        self.processor, self.criteria = logits_processor, stopping_criteria
        self.has_usual_criteria = all(type(each) in (MaxLengthCriteria, EosTokenCriteria) for each in stopping_criteria)
        self.needs_ids = bool(logits_processor) or not self.has_usual_criteria
        # Whoever gets scores may change them or keep them.
        self.shares_scores = bool(logits_processor or config.return_dict_in_generate)
        # Draws depend on the whole batch, and what is a caller's may number its rows.
        self.may_leave = (
            self.has_usual_criteria
            and not (config.do_sample or config.return_dict_in_generate or streamer is not None)
            and all(type(each) in ROW_BY_ROW or getattr(each, "is_row_by_row", False) for each in logits_processor)
        )
        self.lengths = [each for each in stopping_criteria if type(each) is MaxLengthCriteria]
        self.max_length = min((each.max_length for each in self.lengths), default=math.inf)
        self.num_positions = min((each.max_position_embeddings or math.inf for each in self.lengths), default=math.inf)
        self.most_new = config.max_length - num_read
        ends = [each.eos_token_id.tolist() for each in stopping_criteria if type(each) is EosTokenCriteria]
        self.ends = frozenset(token for each in ends for token in each)
        self.pads = any(hasattr(each, "eos_token_id") for each in stopping_criteria)
        own = config.eos_token_id
        self.own_ends = [] if own is None else torch.as_tensor(own, device="cpu").flatten().tolist()
        self.padding = config.pad_token_id
        if self.padding is None and self.own_ends:
            self.padding = self.own_ends[0]
        self.scores: list[Tensor] | None = None
        self.logits: list[Tensor] | None = None
        if config.return_dict_in_generate:
            self.scores = [] if config.output_scores else None
            self.logits = [] if config.output_logits else None

    def processed(self, ids_RT: Tensor, scores_RV: Tensor, logits_RV: Tensor) -> Tensor:
        """The scores after the caller's processors."""
        if self.processor:
            scores_RV = self.processor(ids_RT, scores_RV)
        if self.scores is not None:
            self.scores.append(scores_RV)
        if self.logits is not None:
            self.logits.append(logits_RV)
        return scores_RV

    def are_ended(self, newest: Sequence[int], length: int, ids_RT: Tensor) -> list[bool]:
        """Which replies of a length end with their newest token; `ids_RT` matters to a caller's criteria alone."""
        if not self.has_usual_criteria:
            ended: list[bool] = self.criteria(ids_RT, self.scores and tuple(self.scores)).tolist()
            return ended
        if length >= self.max_length:
            return [True] * len(newest)
        if length > self.num_positions:
            # They warn of it.
            for each in self.lengths:
                each(ids_RT.new_empty(1, length), None)
            self.num_positions = math.inf
        return [token in self.ends for token in newest]

    def padding_of_beams(self) -> int:
        """What transformers fills up the replies of a beam search with."""
        return (self.padding or self.own_ends[0]) if self.own_ends else -1

    def found(self, sequences: Tensor, **more: Any) -> dict[str, Any]:
        """What the search has found, under the names that transformers' outputs give it."""
        scores, logits = (None if each is None else tuple(each) for each in (self.scores, self.logits))
        return {"sequences": sequences, "scores": scores, "logits": logits, **more}


def read_but_last(next_token: TokenByToken, ids_RT: Tensor) -> Tensor:
    """Read what is known of the replies already, but for the newest tokens, (R,), which are returned."""
    if ids_RT.shape[1] > 1:
        next_token.read(ids_RT[:, :-1])
    return ids_RT[:, -1]


def likeliest(scores_RV: Tensor) -> Tensor:
    """The token of the highest score, (R,), as `argmax` finds it: torch's takes ten times as long as numpy's."""
    return torch.from_numpy(scores_RV.float().numpy().argmax(-1))


def sampled(scores_RV: Tensor, num_samples: int) -> Tensor:
    """Tokens drawn by their scores without replacement, (R, num_samples)."""
    return torch.multinomial(scores_RV.softmax(-1), num_samples=num_samples)


def filled_up(rows: Sequence[Sequence[int]], filling: int) -> Tensor:
    """The rows as a tensor, (R, T)."""
    rows_T = [torch.tensor(row, dtype=torch.long, device="cpu") for row in rows]
    return pad_sequence(rows_T, batch_first=True, padding_value=filling)


def sample(
    next_token: TokenByToken,
    ids_RT: Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: GenerationConfig,
    streamer: Any = None,
) -> dict[str, Any]:
    """Go on with `ids_RT` by the likeliest tokens or, with `do_sample`, by draws."""
    config = generation_config
    search = Search(config, logits_processor, stopping_criteria, ids_RT.shape[1], streamer)
    replies = ids_RT.tolist()
    batch, is_open = list(replies), [True] * len(replies)
    ids_R = read_but_last(next_token, ids_RT)
    while any(is_open):
        logits_RV = next_token(ids_R).to(torch.float32, copy=search.shares_scores)
        scores_RV = search.processed(ids_RT, logits_RV, logits_RV)
        ids_R = sampled(scores_RV, 1).squeeze(1) if config.do_sample else likeliest(scores_RV)
        newest = ids_R.tolist()
        if search.pads and not all(is_open):
            newest = [token if is_open[row] else search.padding for row, token in enumerate(newest)]
            ids_R = torch.tensor(newest, device="cpu")
        for reply, token in zip(batch, newest, strict=True):
            reply.append(token)
        if search.needs_ids:
            ids_RT = torch.cat([ids_RT, ids_R[:, None]], -1)
        ended = search.are_ended(newest, len(batch[0]), ids_RT)
        if streamer is not None:
            streamer.put(ids_R)
        is_open = [is_open[row] and not end for row, end in enumerate(ended)]
        if search.may_leave and 0 < sum(is_open) < MOST_THAT_STAY * len(is_open):
            rows = [row for row, still in enumerate(is_open) if still]
            ids_RT, ids_R = ids_RT[rows], ids_R[rows]
            batch, is_open = [batch[row] for row in rows], [True] * len(rows)
            next_token.keep(torch.tensor(rows, device="cpu"))
    if streamer is not None:
        streamer.end()
    # Without a padding all replies end together.
    return search.found(filled_up(replies, search.padding or 0))
