"""The figures of a model's scores and replies, such as its loss, BLEU and exact match."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from importlib.util import find_spec
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from chatformer.chat.engines import TransformersEngine
from chatformer.configuration.evaluation import EvaluationSettings
from chatformer.data.exchanges import EncodedExchanges

from .repetition import repeats_itself
from .scoring import Outcome, outcome_of

FEWEST_BITS = 1e-6
"""Bits per character that are as good as none: float32 rounds the loss of what is known by heart to 0."""


def has_metrics() -> bool:
    """True if the extra `chatformer[metrics]` is installed."""
    return all(find_spec(package) for package in ("evaluate", "sacrebleu", "sklearn"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplyFigures:
    """The quality of replies, given references; a figure is None if there are no replies or a package is missing."""

    num_replies: int = 0
    """Number of replies, which may be fewer than the exchanges."""
    bleu: float | None = None
    """BLEU of the replies, 0 to 100 (Papineni et al., 2002), as sacreBLEU computes it."""
    chrf: float | None = None
    """Character F-score of the replies, 0 to 100 (Popović, 2015), as sacreBLEU computes it."""
    exact_match: float | None = None
    """Share of replies that equal the reference, in percent."""
    distinct_1: float | None = None
    """Different words over all words of the replies, split at white space, in percent (Li et al., 2016)."""
    distinct_2: float | None = None
    """The same for pairs of neighbouring words within a reply."""
    distinct_replies: int | None = None
    """Number of different replies."""
    most_frequent_reply: float | None = None
    """Share of the most frequent reply, in percent."""
    repeated_words: float | None = None
    """Share of replies with a loop or a doubled word, as `repetition.repeats_itself` finds them, in percent."""
    copied_replies: float | None = None
    """Share of replies that equal a reply of the training data word for word, in percent."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation(ReplyFigures):
    """The figures of one evaluation."""

    loss: float
    """Mean negative log-likelihood of a target token, in nats, without label smoothing."""
    perplexity: float
    """e to the power of the loss: the number of equally likely tokens that the model chooses from. It cannot be
    compared across tokenizers."""
    bits_per_character: float
    """The same sum in bits, over the characters of the replies, the end token included: comparable across
    tokenizers."""
    source_gain: float
    """Bits per character that the true source saves, compared with another one; near 0, the model does not listen."""
    history_gain: float | None = None
    """Bits per character that the true turns before the question save, compared with those of another conversation,
    in replies that have such turns; near 0, the model does not remember."""

    @property
    def score(self) -> float | None:
        """chrF over bits per character: better replies and a better loss count by the same proportion."""
        return None if self.chrf is None else self.chrf / max(self.bits_per_character, FEWEST_BITS)


def reply_figures(
    replies: Sequence[str],
    references: Sequence[str],
    *,
    training_replies: Set[str] | None = None,
    bleu_tokenize: str = EvaluationSettings.bleu_tokenize,
) -> ReplyFigures:
    """
    The figures of replies, given their references.

    BLEU and chrF need the extra `chatformer[metrics]`; the share of copied replies needs `training_replies`.
    """
    if not replies:
        return ReplyFigures()
    counts = Counter(replies)
    scores = {}
    if has_metrics():
        from .metrics import corpus_metrics

        results = corpus_metrics(replies, references, bleu_tokenize=bleu_tokenize)
        scores = {name: result["score"] for name, result in results.items()}

    def share(flags: Iterable[bool]) -> float:
        return 100 * sum(flags) / len(replies)

    return ReplyFigures(
        num_replies=len(replies),
        **scores,
        exact_match=share(map(str.__eq__, replies, references)),
        distinct_1=distinct(replies, 1),
        distinct_2=distinct(replies, 2),
        distinct_replies=len(counts),
        most_frequent_reply=100 * counts.most_common(1)[0][1] / len(replies),
        repeated_words=share(map(repeats_itself, replies)),
        copied_replies=None if training_replies is None else share(reply in training_replies for reply in replies),
    )


def distinct(texts: Iterable[str], length: int) -> float | None:
    """The share of different runs of `length` words among all such runs in the texts, in percent."""
    runs = [
        tuple(words[start : start + length])
        for words in map(str.split, texts)
        for start in range(len(words) - length + 1)
    ]
    return 100 * len(set(runs)) / len(runs) if runs else None


def figures_of(
    exchanges: EncodedExchanges, outcome: Outcome, indices: Sequence[int], **reply_options: Any
) -> Evaluation:
    """The figures of the exchanges at `indices`, at least one; `reply_options` are those of `reply_figures`."""
    nats, without_source = float(outcome.nats[indices].sum()), float(outcome.nats_without_source[indices].sum())
    loss = nats / int(exchanges.target_lengths[indices].sum())
    num_characters = sum(len(exchanges.replies[index]) for index in indices)
    bits_per_character = nats / math.log(2) / num_characters
    answered_indices = [index for index in indices if index < len(outcome.replies)]
    replies = reply_figures(
        [outcome.replies[index] for index in answered_indices],
        [exchanges.replies[index] for index in answered_indices],
        **reply_options,
    )
    later_indices = [index for index in indices if not math.isnan(outcome.nats_without_history[index])]
    history_gain = None
    if later_indices:
        saved_nats = float((outcome.nats_without_history[later_indices] - outcome.nats[later_indices]).sum())
        history_gain = saved_nats / math.log(2) / sum(len(exchanges.replies[index]) for index in later_indices)
    with np.errstate(over="ignore"):
        perplexity = float(np.exp(loss))
    return Evaluation(
        loss=loss,
        perplexity=perplexity,
        bits_per_character=bits_per_character,
        source_gain=(without_source - nats) / math.log(2) / num_characters,
        history_gain=history_gain,
        **dataclasses.asdict(replies),
    )


def evaluate(
    model: PreTrainedModel, tokenizer: Any, exchanges: EncodedExchanges, *, max_replies: int, **reply_options: Any
) -> tuple[Evaluation, list[str]]:
    """
    The figures of the model on `exchanges`, and its replies to the first `max_replies` of them.

    `reply_options` are those of `reply_figures`. Every rank takes part, with a model of its own, and gets the same
    result.
    """
    was_training = model.training
    model.eval()
    outcome = outcome_of(TransformersEngine(model, tokenizer), tokenizer, exchanges, max_replies=max_replies)
    model.train(was_training)
    return figures_of(exchanges, outcome, range(len(exchanges)), **reply_options), outcome.replies
