"""What a model is worth on conversations it has not seen: its loss, and its replies beside two that cost nothing."""

import copy
import dataclasses
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Set
from importlib.util import find_spec
from operator import itemgetter
from typing import Any, TypeVar

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedModel

from chatformer.chat.engines import GREEDY, Engine, TransformersEngine
from chatformer.conversation import Message, encode_conversation
from chatformer.data.exchanges import EncodedExchanges
from chatformer.training.settings import EvaluationSettings

from .repetition import repeats_itself

Result = TypeVar("Result")


def has_metrics() -> bool:
    """Return whether the extra `chatformer[metrics]` is installed."""
    return all(find_spec(package) for package in ("evaluate", "sacrebleu", "sklearn"))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a model made of exchanges, in their order."""

    nats: np.ndarray
    """Negative log-likelihood of each target."""
    nats_without_source: np.ndarray
    """The same, behind the source of another exchange."""
    nats_without_history: np.ndarray
    """The same, behind the true question and the turns before the question of another exchange; NaN where none are."""
    replies: list[str]
    """The replies to the first of them."""


def length_batches(exchanges: EncodedExchanges, count: int, batch_tokens: int) -> list[list[int]]:
    """Return indices of the first `count` exchanges, those of like length in batches of about `batch_tokens`."""
    return batches_of_like_length((exchanges.source_lengths + exchanges.target_lengths)[:count], batch_tokens)


def batches_of_like_length(lengths: Sequence[int] | np.ndarray, batch_tokens: int) -> list[list[int]]:
    """Return the indices of all lengths, like ones in batches of about `batch_tokens` together."""
    lengths = np.asarray(lengths)
    order = np.argsort(lengths, kind="stable")
    ends = np.searchsorted(lengths[order].cumsum(), np.arange(batch_tokens, lengths.sum(), batch_tokens))
    return [batch.tolist() for batch in np.split(order, ends) if len(batch)]


def others_of_like_length(exchanges: EncodedExchanges) -> np.ndarray:
    """Return for each exchange the index of another one, whose source is about as long."""
    order = np.argsort(exchanges.source_lengths, kind="stable")
    others = np.empty_like(order)
    others[order] = np.roll(order, 1)
    return others


def sources_with_other_histories(exchanges: EncodedExchanges, tokenizer: Any) -> dict[int, list[int]]:
    """Return for each exchange with a history its source, but with the history of another one of as many turns."""
    longest = int(exchanges.source_lengths.max(initial=0))
    by_turns: dict[int, list[int]] = {}
    for index, history in enumerate(exchanges.histories):
        by_turns.setdefault(len(turns_of(history)), []).append(index)
    sources = {}
    for num_turns, indices in by_turns.items():
        if num_turns == 1 or len(indices) == 1:
            continue
        # From far away, as neighbours may be the same conversation in other words.
        others = np.roll(indices, len(indices) // 2)
        for index, other in zip(indices, others.tolist(), strict=True):
            history = exchanges.histories[index]
            opening = history[: len(history) - len(turns_of(history))]
            turns = [*turns_of(exchanges.histories[other])[:-1], history[-1]]
            sources[index] = encode_conversation(tokenizer, opening + turns, longest)
    return sources


def turns_of(history: Sequence[Message]) -> Sequence[Message]:
    """Return the turns without the system's message."""
    return history[1:] if history[0]["role"] == "system" else history


def outcome_of(
    engine: Engine,
    tokenizer: Any,
    exchanges: EncodedExchanges,
    *,
    max_replies: int | None,
    search: GenerationConfig = GREEDY,
    batch_tokens: int = EvaluationSettings.batch_tokens,
    show_progress: bool = False,
) -> Outcome:
    """
    Return what the model makes of the exchanges, and its replies to the first `max_replies` of them, or to all.

    The replies are found by `search`, which is to leave nothing to chance. The batches are shared out to the processes
    that accelerate knows of, and all of them get the whole outcome, which is that of one process.
    """
    others = others_of_like_length(exchanges)
    num_replies = len(exchanges) if max_replies is None else min(max_replies, len(exchanges))
    search = copy.deepcopy(search)
    if search.max_new_tokens is None:
        # Room for half as much again as the longest reference: a young model may repeat itself without end.
        search.max_new_tokens = 3 * int(exchanges.target_lengths.max(initial=0)) // 2

    def sources_of(indices: list[int]) -> list[list[int]]:
        return [exchanges.source(index).tolist() for index in indices]

    other_histories = sources_with_other_histories(exchanges, tokenizer)

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
        return tokenizer.batch_decode(engine.generate(sources_of(indices), search), skip_special_tokens=True)

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
    """Return what `compute` returns for the indices of all batches, in the indices' order."""
    state = PartialState()
    # The longest first: should memory not suffice, that is known at once.
    mine = batches[::-1][state.process_index :: state.num_processes]
    found: list[tuple[int, Result]] = []
    bar = tqdm(
        total=sum(map(len, mine)),
        desc=description,
        unit="exchange",
        disable=not (show_progress and state.is_main_process),
        mininterval=0.5 if sys.stderr.isatty() else 30,
        dynamic_ncols=True,
    )
    with bar:
        for batch in mine:
            found += zip(batch, compute(batch), strict=True)
            bar.update(len(batch))
    return [result for _, result in sorted(gather_object(found), key=itemgetter(0))]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplyFigures:
    """What replies are worth beside their references; None where there are none, or a package is missing."""

    bleu: float | None = None
    """BLEU of the replies, 0 to 100 (Papineni et al., 2002), as sacreBLEU computes it."""
    chrf: float | None = None
    """Character F-score of the replies, 0 to 100 (Popović, 2015), as sacreBLEU computes it."""
    exact_match: float | None = None
    """Share of replies that equal the reference, in percent."""
    distinct_1: float | None = None
    """Different words over all words of the replies, split at white space, in percent (Li et al., 2016)."""
    distinct_2: float | None = None
    """The same of pairs of neighbouring words within a reply."""
    distinct_replies: int | None = None
    """How many different replies there were."""
    most_frequent_reply: float | None = None
    """Share of the most frequent reply, in percent."""
    repeated_words: float | None = None
    """Share of replies with a loop or a doubled word, as `repetition.repeats_itself` finds them, in percent."""
    copied_replies: float | None = None
    """Share of replies that stand word for word among the replies of the training, in percent."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation(ReplyFigures):
    """The figures of one evaluation."""

    loss: float
    """Mean negative log-likelihood of a target token, in nats, without label smoothing."""
    perplexity: float
    """e to the power of the loss: among how many equally likely tokens the model chooses. Of this tokenizer alone."""
    bits_per_character: float
    """The same sum in bits over the characters of the replies, end token counted in: comparable across tokenizers."""
    source_gain: float
    """Bits per character that the true source saves against another's; near 0, the model does not listen."""
    history_gain: float | None = None
    """Bits per character that the true turns before the question save against another conversation's, in replies that
    have such turns; near 0, the model does not remember."""

    @property
    def score(self) -> float | None:
        """chrF over bits per character: better replies and a better loss count by the same proportion."""
        return None if self.chrf is None else self.chrf / self.bits_per_character


def reply_figures(
    replies: Sequence[str],
    references: Sequence[str],
    *,
    training_replies: Set[str] | None = None,
    bleu_tokenize: str = EvaluationSettings.bleu_tokenize,
) -> ReplyFigures:
    """
    Return the figures of replies beside their references.

    BLEU and chrF need the extra `chatformer[metrics]`, copied replies the `training_replies`.
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
    """Return in percent how many of the runs of `length` words in the texts are different ones."""
    runs = [
        tuple(words[start : start + length])
        for words in map(str.split, texts)
        for start in range(len(words) - length + 1)
    ]
    return 100 * len(set(runs)) / len(runs) if runs else None


def figures_of(
    exchanges: EncodedExchanges, outcome: Outcome, indices: Sequence[int], **reply_options: Any
) -> Evaluation:
    """Return the figures of the exchanges at `indices`, of which there is one at least."""
    nats, without_source = float(outcome.nats[indices].sum()), float(outcome.nats_without_source[indices].sum())
    loss = nats / int(exchanges.target_lengths[indices].sum())
    bits_per_character = nats / math.log(2) / sum(len(exchanges.replies[index]) for index in indices)
    answered = [index for index in indices if index < len(outcome.replies)]
    replies = reply_figures(
        [outcome.replies[index] for index in answered],
        [exchanges.replies[index] for index in answered],
        **reply_options,
    )
    later = [index for index in indices if not math.isnan(outcome.nats_without_history[index])]
    history_gain = None
    if later:
        saved = float((outcome.nats_without_history[later] - outcome.nats[later]).sum())
        history_gain = saved / math.log(2) / sum(len(exchanges.replies[index]) for index in later)
    with np.errstate(over="ignore"):
        perplexity = float(np.exp(loss))
    return Evaluation(
        loss=loss,
        perplexity=perplexity,
        bits_per_character=bits_per_character,
        source_gain=(without_source / nats - 1) * bits_per_character,
        history_gain=history_gain,
        **dataclasses.asdict(replies),
    )


def evaluate(
    model: PreTrainedModel, tokenizer: Any, exchanges: EncodedExchanges, *, max_replies: int
) -> tuple[Evaluation, list[str]]:
    """
    Return the figures of the model on `exchanges`, and its greedy replies to the first `max_replies` of them.

    All processes take part, each with the whole model, and get the same.
    """
    was_training = model.training
    model.eval()
    outcome = outcome_of(TransformersEngine(model), tokenizer, exchanges, max_replies=max_replies)
    model.train(was_training)
    return figures_of(exchanges, outcome, range(len(exchanges))), outcome.replies


def nearest_answers(questions: Sequence[str], training: Sequence[tuple[str, str]]) -> list[str]:
    """
    Return for each question the answer of the training's most similar question, the first of equally similar ones.

    Similar is the cosine of the TF-IDF weights of single characters and pairs, within words. Needs the extra
    `chatformer[metrics]`.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 2), sublinear_tf=True)
    known = vectorizer.fit_transform([question for question, _ in training]).T.tocsr()
    answers = []
    # As many at once as memory holds similarities of.
    rows = max(1, 10_000_000 // len(training))
    for start in range(0, len(questions), rows):
        similarities = vectorizer.transform(questions[start : start + rows]) @ known
        answers += [training[int(index)][1] for index in np.asarray(similarities.argmax(axis=1)).ravel()]
    return answers


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A model's figures on all exchanges, on those whose answer it has seen and on the others, beside baselines'."""

    groups: dict[str, list[int]]
    """The indices of the exchanges by group: all, seen and unseen, or all alone."""
    model: dict[str, Evaluation | None]
    """The model's figures by group; None where a group is empty."""
    baselines: dict[str, dict[str, ReplyFigures]]
    """Those of the replies of each baseline, by group."""
    baseline_replies: dict[str, list[str]]
    """What each baseline replies, where the model was to reply."""


def compare(
    exchanges: EncodedExchanges,
    outcome: Outcome,
    training: Sequence[tuple[str, str]] | None,
    *,
    bleu_tokenize: str = EvaluationSettings.bleu_tokenize,
) -> Comparison:
    """
    Return the figures of an outcome, by group and beside baselines where the `training`'s questions and answers are
    given.

    An answer is seen if it stands word for word among the training's. Of a longer history the question is the last
    turn. The baselines are the answer of the nearest training question, and the most frequent answer.
    """
    indices = list(range(len(exchanges)))
    groups = {"all": indices}
    baseline_replies: dict[str, list[str]] = {}
    options: dict[str, Any] = {"bleu_tokenize": bleu_tokenize}
    if training is not None:
        answers = Counter(answer for _, answer in training)
        groups["seen"] = [index for index in indices if exchanges.replies[index] in answers]
        groups["unseen"] = [index for index in indices if exchanges.replies[index] not in answers]
        options["training_replies"] = answers.keys()
        questions = [history[-1]["content"] for history in exchanges.histories[: len(outcome.replies)]]
        if has_metrics():
            baseline_replies["nearest question"] = nearest_answers(questions, training)
        baseline_replies["most frequent answer"] = [answers.most_common(1)[0][0]] * len(questions)

    def baseline_figures(replies: list[str], chosen: list[int]) -> ReplyFigures:
        answered = [index for index in chosen if index < len(replies)]
        return reply_figures(
            [replies[index] for index in answered], [exchanges.replies[index] for index in answered], **options
        )

    return Comparison(
        groups=groups,
        model={
            name: figures_of(exchanges, outcome, chosen, **options) if chosen else None
            for name, chosen in groups.items()
        },
        baselines={
            baseline: {name: baseline_figures(replies, chosen) for name, chosen in groups.items()}
            for baseline, replies in baseline_replies.items()
        },
        baseline_replies=baseline_replies,
    )
