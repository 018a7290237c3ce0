"""
Greedy search, sampling and beam search around a decoder without modules, with the results of transformers' own.

For each token, `generate()` asks and keeps what only some models, options and devices need. Here that is settled once.
What is known of the replies so far is in lists, where a CPU finds it sooner than in tensors. And questions that are
answered leave the batch.

Letters after a tensor's name are its axes: Q questions, W beams of each (the width of the search), R rows, which are
the beams of each question or, without beams, the questions, K candidates, T target tokens so far, V vocabulary, X
several of these in one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
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

NO_SCORE = -1e9
"""The score of a beam that is none yet, of a reply that was not found, and what a beam that has ended loses."""


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


def filled_up(rows: Sequence[Sequence[int]], filling: Any, **options: Any) -> Tensor:
    """The rows as a tensor, (R, T)."""
    length = max(map(len, rows))
    return torch.tensor([[*row, *[filling] * (length - len(row))] for row in rows], device="cpu", **options)


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
    needs_copies = bool(logits_processor or config.return_dict_in_generate)
    replies = ids_RT.tolist()
    batch, is_open = list(replies), [True] * len(replies)
    ids_R = read_but_last(next_token, ids_RT)
    while any(is_open):
        # Whoever gets the logits may change them.
        logits_RV = next_token(ids_R).to(torch.float32, copy=needs_copies)
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
    return search.found(filled_up(replies, search.padding))


class Said(NamedTuple):
    """A token of a beam."""

    token: int
    row: int
    """The row of the beam that it goes on with."""
    before: "Said | None"

    def all(self) -> list["Said"]:
        """The tokens from the first one to this one."""
        tokens = [self]
        while (before := tokens[-1].before) is not None:
            tokens.append(before)
        return tokens[::-1]


class Candidate(NamedTuple):
    """A token that a question's beam may go on with, and the score of both."""

    score: float
    beam: int
    token: int
    is_end: bool


@dataclass
class Question:
    """The beams of a question, and the best of those that have ended, with their scores."""

    first_row: int
    beams: list[Said | None]
    ended: list[tuple[float, Said]] = field(default_factory=list)
    can_improve: bool = True

    def is_full(self) -> bool:
        return len(self.ended) == len(self.beams)

    def is_answered(self, config: GenerationConfig) -> bool:
        """True if no beam can change any more what is kept."""
        return not self.can_improve or (self.is_full() and config.early_stopping is True)

    def said(self, candidate: Candidate) -> Said:
        return Said(candidate.token, self.first_row + candidate.beam, self.beams[candidate.beam])

    def go_on(
        self, candidates: Sequence[Candidate], num_new: int, most_new: int, config: GenerationConfig
    ) -> list[Candidate]:
        """
        Return the best candidates that go on, as the next beams; keep the best of those that have ended.

        candidates: in the order that the search found them in. num_new: the number of tokens that they make. most_new:
        the number that a reply may have.
        """
        num_beams, penalty = len(self.beams), config.length_penalty
        if any(candidate.is_end for candidate in candidates):
            if not self.is_answered(config):
                # The candidates after as many as there are beams are there to go on only.
                new = (candidate for candidate in candidates[:num_beams] if candidate.is_end)
                scored = ((candidate.score / num_new**penalty, self.said(candidate)) for candidate in new)
                self.ended += [(score, said) for score, said in scored if score > NO_SCORE]
                self.ended.sort(key=lambda scored: -scored[0])
                del self.ended[num_beams:]
            candidates = [
                candidate._replace(score=candidate.score + NO_SCORE) if candidate.is_end else candidate
                for candidate in candidates
            ]
        going = sorted(candidates, key=lambda candidate: -candidate.score)[:num_beams]
        self.beams = [self.said(candidate) for candidate in going]
        if self.can_improve:
            # As transformers guesses it from the length at which a beam may end.
            is_patient = config.early_stopping == "never" and penalty > 0
            reachable = going[0].score / (most_new if is_patient else num_new) ** penalty
            self.can_improve = reachable > (self.ended[-1][0] if self.is_full() else NO_SCORE)
        return going

    def best(self, number: int) -> list[tuple[float, list[Said]]]:
        """The scores and tokens of the best replies, which are empty where there are not enough."""
        replies = [(score, said.all()) for score, said in self.ended[:number]]
        return replies + [(NO_SCORE, [])] * (number - len(replies))


def beam_search(
    next_token: TokenByToken,
    ids_RT: Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: GenerationConfig,
) -> dict[str, Any]:
    """Go on with `ids_RT`, whose rows are the same for all beams of a question, by the sequences of highest scores."""
    config = generation_config
    search = Search(config, logits_processor, stopping_criteria, ids_RT.shape[1])
    num_beams, prompts, first_length = config.num_beams, ids_RT.tolist(), ids_RT.shape[1]
    # So many that enough go on where others end.
    num_candidates = max(2, 1 + len(search.own_ends)) * num_beams
    questions = [Question(row, [None] * num_beams) for row in range(0, len(ids_RT), num_beams)]
    batch, num_new = questions, 0
    # At first all beams of a question are the same, and one alone counts.
    total_R1 = torch.full((len(ids_RT), 1), NO_SCORE, dtype=torch.float32, device="cpu")
    total_R1[::num_beams] = 0
    ids_R = read_but_last(next_token, ids_RT)
    while True:
        logits_RV = next_token(ids_R).to(torch.float32, copy=config.return_dict_in_generate)
        scores_RV = search.processed(ids_RT, logits_RV.log_softmax(-1), logits_RV)
        num_new, vocabulary = num_new + 1, scores_RV.shape[1]
        # Large tensors cost a CPU more than their arithmetic.
        is_ours = not (search.processor or config.return_dict_in_generate)
        total_QX = (scores_RV.add_(total_R1) if is_ours else scores_RV + total_R1).reshape(len(batch), -1)
        if config.do_sample:
            index_QK = sampled(total_QX, num_candidates)
            total_QK = total_QX.gather(1, index_QK)
        else:
            total_QK, index_QK = total_QX.topk(num_candidates)
        beam_QK, token_QK = index_QK // vocabulary, index_QK % vocabulary
        candidates_XT = ids_RT
        if not search.has_usual_criteria:
            rows_QK = beam_QK + torch.arange(0, len(ids_R), num_beams, device="cpu")[:, None]
            candidates_XT = torch.cat([ids_RT[rows_QK.flatten()], token_QK.view(-1, 1)], -1)
        ended = search.are_ended(token_QK.flatten().tolist(), first_length + num_new, candidates_XT)
        candidates = list(map(Candidate, *(each.flatten().tolist() for each in (total_QK, beam_QK, token_QK)), ended))
        going = [
            question.go_on(candidates[place : place + num_candidates], num_new, search.most_new, config)
            for question, place in zip(batch, range(0, len(candidates), num_candidates), strict=True)
        ]
        flat = [candidate for row in going for candidate in row]
        first_rows = [row for row in range(0, len(flat), num_beams) for _ in range(num_beams)]
        rows = [row + candidate.beam for row, candidate in zip(first_rows, flat, strict=True)]
        rows_R = torch.tensor(rows, device="cpu")
        next_token.follow(rows_R)
        if all(ended) or all(question.is_answered(config) for question in batch):
            break
        ids_R = torch.tensor([candidate.token for candidate in flat], device="cpu")
        total_R1 = torch.tensor([[candidate.score] for candidate in flat], dtype=torch.float32, device="cpu")
        if search.needs_ids:
            ids_RT = torch.cat([ids_RT[rows_R], ids_R[:, None]], -1)
        if search.may_leave:
            open_ones = [place for place, question in enumerate(batch) if not question.is_answered(config)]
            if len(open_ones) < MOST_THAT_STAY * len(batch):
                batch = [batch[place] for place in open_ones]
                ids_RT, ids_R, total_R1 = (
                    x_RX.unflatten(0, (-1, num_beams))[open_ones].flatten(0, 1) for x_RX in (ids_RT, ids_R, total_R1)
                )
                next_token.keep(torch.tensor(open_ones, device="cpu"))
    best = [
        (score, prompt, reply)
        for question, prompt in zip(questions, prompts[::num_beams], strict=True)
        for score, reply in question.best(config.num_return_sequences)
    ]
    scores = torch.tensor([score for score, *_ in best], dtype=torch.float32, device="cpu")
    return search.found(
        filled_up([[*prompt, *(said.token for said in reply)] for _, prompt, reply in best], search.padding_of_beams()),
        sequences_scores=scores if config.output_scores else None,
        beam_indices=filled_up([[said.row for said in reply] for *_, reply in best], -1, dtype=torch.int32),
    )
