"""
Beam search around a decoder without modules, with the results of transformers' own.

Letters after a tensor's name are its axes: Q questions, W beams of each (the width of the search), R rows, one for each
beam of each question, K candidates, T target tokens so far, V vocabulary, X several of these in one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig

from .fast_search import MOST_THAT_STAY, Search, TokenByToken, filled_up, read_but_last, sampled

NO_SCORE = -1e9
"""The score of a beam that is none yet, of a reply that was not found, and what a beam that has ended loses."""


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
        total_RV = scores_RV + total_R1 if search.shares_scores else scores_RV.add_(total_R1)
        total_QX = total_RV.reshape(len(batch), -1)
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
        rows = [place * num_beams + each.beam for place, beams in enumerate(going) for each in beams]
        rows_R = torch.tensor(rows, device="cpu")
        next_token.follow(rows_R)
        if all(ended) or all(question.is_answered(config) for question in batch):
            break
        ids_R = torch.tensor([each.token for beams in going for each in beams], device="cpu")
        totals = [[each.score] for beams in going for each in beams]
        total_R1 = torch.tensor(totals, dtype=torch.float32, device="cpu")
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
        beam_indices=filled_up([[said.row for said in reply] for *_, reply in best], -1).int(),
    )
