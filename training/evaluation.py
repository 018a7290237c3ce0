"""What a model is worth on conversations it has not seen: its loss, and its replies."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from .batches import EncodedExchanges, collate

EVALUATION_TOKENS = 8000
"""Source and target tokens of one evaluation batch, padding counted."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The figures of one evaluation; the replies' are None where none were asked for."""

    loss: float
    """Mean negative log-likelihood of a target token, in nats, without label smoothing."""
    bits_per_character: float
    """The same sum in bits over the characters of the replies, end token counted in: comparable across tokenizers."""
    source_gain: float
    """Bits per character that the true source saves against another's; near 0, the model does not listen."""
    chrf: float | None = None
    """Character F-score of the replies, 0 to 100 (Popović, 2015), as sacreBLEU computes it."""
    exact_match: float | None = None
    """Share of replies that equal the reference, in percent."""
    distinct_replies: int | None = None
    """How many different replies there were."""
    most_frequent_reply: float | None = None
    """Share of the most frequent reply, in percent."""

    @property
    def score(self) -> float | None:
        """chrF over bits per character: better replies and a better loss count by the same proportion."""
        return None if self.chrf is None else self.chrf / self.bits_per_character


def length_batches(exchanges: EncodedExchanges, indices: Sequence[int] | None = None) -> Iterator[np.ndarray]:
    """Yield indices of exchanges of like length, in batches of about `EVALUATION_TOKENS`."""
    chosen = np.arange(len(exchanges)) if indices is None else np.asarray(indices)
    lengths = (exchanges.source_lengths + exchanges.target_lengths)[chosen]
    order = chosen[np.argsort(lengths, kind="stable")]
    ends = np.searchsorted(np.sort(lengths).cumsum(), np.arange(EVALUATION_TOKENS, lengths.sum(), EVALUATION_TOKENS))
    yield from (batch for batch in np.split(order, ends) if len(batch))


@torch.inference_mode()
def total_loss(model: PreTrainedModel, exchanges: EncodedExchanges, indices: Sequence[int] | None = None) -> float:
    """Return the negative log-likelihood, in nats, of all target tokens of the exchanges at `indices`, or of all."""
    total = 0.0
    for batch_indices in length_batches(exchanges, indices):
        batch = collate(exchanges, batch_indices, model.config.pad_token_id)
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        # Divided by one token, the mean over the batch is its sum.
        total += model(**batch, num_items_in_batch=1).loss.item()
    return total


def with_other_sources(exchanges: EncodedExchanges) -> EncodedExchanges:
    """Return the exchanges with each target beside the source of another one, of about the same length."""
    order = np.argsort(exchanges.source_lengths, kind="stable")
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)
    sources = [exchanges.source(int(index)) for index in other]
    return dataclasses.replace(
        exchanges, source_ids=np.concatenate(sources), source_ends=np.cumsum([len(source) for source in sources])
    )


@torch.inference_mode()
def generate_replies(
    model: Any, tokenizer: Any, exchanges: EncodedExchanges, indices: Sequence[int], **generation: Any
) -> list[str]:
    """Return the model's reply to the history of each exchange at `indices`, in their order."""
    replies: dict[int, str] = {}
    for batch_indices in length_batches(exchanges, indices):
        batch = collate(exchanges, batch_indices, model.config.pad_token_id)
        generated = model.generate(
            batch["input_ids"].to(model.device), attention_mask=batch["attention_mask"].to(model.device), **generation
        )
        texts = tokenizer.batch_decode(generated, skip_special_tokens=True)
        replies.update(zip(batch_indices.tolist(), texts, strict=True))
    return [replies[index] for index in indices]


def evaluate(
    model: PreTrainedModel, tokenizer: Any, exchanges: EncodedExchanges, *, max_replies: int, with_chrf: bool
) -> tuple[Evaluation, list[str]]:
    """
    Return the figures of the model on `exchanges`, and its replies to the first `max_replies` of them.

    Replies are greedy. chrF needs sacreBLEU, which the extra `chatformer[metrics]` installs.
    """
    was_training = model.training
    model.eval()
    nats = total_loss(model, exchanges)
    bits_per_character = nats / math.log(2) / sum(map(len, exchanges.replies))
    nats_without_source = total_loss(model, with_other_sources(exchanges))
    replies: list[str] = []
    figures: dict[str, Any] = {
        "loss": nats / int(exchanges.target_lengths.sum()),
        "bits_per_character": bits_per_character,
        "source_gain": (nats_without_source / nats - 1) * bits_per_character,
    }
    indices = range(min(max_replies, len(exchanges)))
    if indices:
        # Room for half as much again as the longest reference: a young model may repeat itself without end.
        max_new_tokens = 3 * int(exchanges.target_lengths.max()) // 2
        replies = generate_replies(
            model, tokenizer, exchanges, indices, do_sample=False, num_beams=1, max_new_tokens=max_new_tokens
        )
        figures |= reply_figures(replies, exchanges.replies[: len(replies)], with_chrf=with_chrf)
    model.train(was_training)
    return Evaluation(**figures), replies


def reply_figures(replies: Sequence[str], references: Sequence[str], *, with_chrf: bool) -> dict[str, Any]:
    """Return the figures of replies beside their references, by the names that `Evaluation` has for them."""
    counts = Counter(replies)
    figures: dict[str, Any] = {
        "exact_match": 100 * sum(map(str.__eq__, replies, references)) / len(replies),
        "distinct_replies": len(counts),
        "most_frequent_reply": 100 * counts.most_common(1)[0][1] / len(replies),
    }
    if with_chrf:
        from sacrebleu.metrics import CHRF

        figures["chrf"] = CHRF().corpus_score(list(replies), [list(references)]).score
    return figures
