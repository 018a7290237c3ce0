"""A model on exchanges: the likelihood of their targets, and the replies to their sources."""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, TypeVar

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import GenerationConfig

from chatformer.chat.engines import Engine, drawing_by, usual_search
from chatformer.configuration.evaluation import EvaluationSettings
from chatformer.conversation import Message, encode_conversation
from chatformer.data.exchanges import EncodedExchanges
from chatformer.storage.bars import progress_bar

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The scores and replies of a model for exchanges, in their order."""

    nats: np.ndarray
    """Negative log-likelihood of each target."""
    nats_without_source: np.ndarray
    """The same, given the source of another exchange."""
    nats_without_history: np.ndarray
    """The same, given the true question after the earlier turns of another exchange; NaN for exchanges without any."""
    replies: list[str]
    """The replies to the first of them."""


def length_batches(exchanges: EncodedExchanges, count: int, batch_tokens: int) -> list[list[int]]:
    """The indices of the first `count` exchanges, in batches of similar lengths and about `batch_tokens` tokens."""
    return batches_of_like_length((exchanges.source_lengths + exchanges.target_lengths)[:count], batch_tokens)


def batches_of_like_length(lengths: Sequence[int] | np.ndarray, batch_tokens: int) -> list[list[int]]:
    """The indices of `lengths`, in batches of similar ones whose sum is about `batch_tokens`."""
    lengths = np.asarray(lengths)
    order = np.argsort(lengths, kind="stable")
    ends = np.searchsorted(lengths[order].cumsum(), np.arange(batch_tokens, lengths.sum(), batch_tokens))
    return [batch.tolist() for batch in np.split(order, ends) if len(batch)]


def others_of_like_length(exchanges: EncodedExchanges) -> np.ndarray:
    """For each exchange the index of another one, whose source is about as long."""
    order = np.argsort(exchanges.source_lengths, kind="stable")
    others = np.empty_like(order)
    others[order] = np.roll(order, 1)
    return others


def sources_with_other_histories(exchanges: EncodedExchanges, tokenizer: Any) -> dict[int, list[int]]:
    """For each exchange with a history its source, but with the history of another exchange of as many turns."""
    longest = int(exchanges.source_lengths.max(initial=0))
    by_turns: dict[int, list[int]] = {}
    for index, history in enumerate(exchanges.histories):
        by_turns.setdefault(len(turns_of(history)), []).append(index)
    sources = {}
    for num_turns, indices in by_turns.items():
        if num_turns == 1 or len(indices) == 1:
            continue
        # From far away: neighbours may be the same conversation in other words.
        others = np.roll(indices, len(indices) // 2)
        for index, other in zip(indices, others.tolist(), strict=True):
            history = exchanges.histories[index]
            opening = history[: len(history) - len(turns_of(history))]
            turns = [*turns_of(exchanges.histories[other])[:-1], history[-1]]
            sources[index] = encode_conversation(tokenizer, opening + turns, longest)
    return sources


def turns_of(history: Sequence[Message]) -> Sequence[Message]:
    """The messages without the system message."""
    return history[1:] if history[0]["role"] == "system" else history


def outcome_of(
    engine: Engine,
    tokenizer: Any,
    exchanges: EncodedExchanges,
    *,
    max_replies: int | None,
    search: GenerationConfig | None = None,
    batch_tokens: int = EvaluationSettings.batch_tokens,
    show_progress: bool = False,
) -> Outcome:
    """
    The scores of the exchanges, and the replies to the first `max_replies` of them, or to all.

    `search` finds the replies; unless given, it is greedy, or draws if the model's own settings do. The processes of
    accelerate share the batches, and every rank gets all of the outcome, which is the same as that of one process:
    what is drawn depends on the batch alone.
    """
    others = others_of_like_length(exchanges)
    other_histories = sources_with_other_histories(exchanges, tokenizer)
    num_replies = len(exchanges) if max_replies is None else min(max_replies, len(exchanges))
    search = copy.deepcopy(search or usual_search(engine))
    if search.max_new_tokens is None:
        # 1.5 times the longest reference: a young model may repeat itself without end.
        search.max_new_tokens = 3 * int(exchanges.target_lengths.max(initial=0)) // 2

    def sources_of(indices: list[int]) -> list[list[int]]:
        return [exchanges.source(index).tolist() for index in indices]

    def score(indices: list[int]) -> Iterable[tuple[float, float, float]]:
        targets = {index: exchanges.target(index).tolist() for index in indices}
        nats = engine.score(sources_of(indices), list(targets.values()))
        without_source = engine.score(sources_of(others[indices].tolist()), list(targets.values()))
        later = [index for index in indices if index in other_histories]
        without_history = dict.fromkeys(indices, math.nan)
        if later:
            scores = engine.score([other_histories[index] for index in later], [targets[index] for index in later])
            without_history.update(zip(later, scores, strict=True))
        return zip(nats, without_source, without_history.values(), strict=True)

    def reply(indices: list[int]) -> list[str]:
        with drawing_by(indices[0]):
            generated = engine.generate(sources_of(indices), search)
        return tokenizer.batch_decode(generated, skip_special_tokens=True)

    scores = _by_batch(score, length_batches(exchanges, len(exchanges), batch_tokens), "scoring", show_progress)
    replies = _by_batch(reply, length_batches(exchanges, num_replies, batch_tokens), "replying", show_progress)
    nats, nats_without_source, nats_without_history = np.array(scores).reshape(-1, 3).T
    return Outcome(nats, nats_without_source, nats_without_history, replies)


def _by_batch(
    compute: Callable[[list[int]], Iterable[Result]],
    batches: list[list[int]],
    description: str,
    show_progress: bool,
) -> list[Result]:
    """The results of `compute` for the indices of all batches, in the order of the indices."""
    state = PartialState()
    # The longest first: if memory runs out, it does so at once.
    local_batches = batches[::-1][state.process_index :: state.num_processes]
    results: list[tuple[int, Result]] = []
    with progress_bar(
        total=sum(map(len, local_batches)),
        description=description,
        unit="exchange",
        shown=show_progress and state.is_main_process,
    ) as bar:
        for batch in local_batches:
            results += zip(batch, compute(batch), strict=True)
            bar.update(len(batch))
    return [result for _, result in sorted(gather_object(results), key=itemgetter(0))]
