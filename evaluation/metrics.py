"""Corpus metrics of replies: metrics of the library `evaluate` that sacreBLEU computes, without a network."""

import tempfile
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
from sacrebleu.metrics import BLEU, CHRF


class _SacreMetric(evaluate.Metric):
    """A metric of sacreBLEU: `compute(predictions=…, references=…)` returns its score and its signature."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=type(self).__doc__,
            citation="",
            inputs_description="Texts, and one reference for each.",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _score(self, metric: Any, predictions: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
        score = metric.corpus_score(list(predictions), [list(references)]).score
        return {"score": score, "signature": str(metric.get_signature())}


class Bleu(_SacreMetric):
    """BLEU (Papineni et al., 2002), 0 to 100; `tokenize` is one of sacreBLEU's tokenizers."""

    def _compute(self, predictions: Sequence[str], references: Sequence[str], tokenize: str) -> dict[str, Any]:
        # Who asks for no tokenizer has tokenized text, which sacreBLEU would warn of at each call.
        return self._score(BLEU(tokenize=tokenize, force=tokenize == "none"), predictions, references)


class Chrf(_SacreMetric):
    """Character F-score (Popović, 2015), 0 to 100."""

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
        return self._score(CHRF(), predictions, references)


def corpus_metrics(
    replies: Sequence[str], references: Sequence[str], *, bleu_tokenize: str
) -> dict[str, dict[str, Any]]:
    """
    BLEU and chrF of replies, given their references, each with its score and its signature.

    Raises a `ValueError` if a package is missing that `bleu_tokenize` needs.
    """
    texts = {"predictions": replies, "references": references}
    # In memory, so that processes share nothing; the library still wants a folder.
    with tempfile.TemporaryDirectory() as folder:
        place = {"keep_in_memory": True, "cache_dir": folder}
        try:
            bleu = Bleu(**place).compute(**texts, tokenize=bleu_tokenize)
        except (ImportError, RuntimeError) as error:
            message = " ".join(str(error).split())
            raise ValueError(f"--bleu-tokenize {bleu_tokenize} is not available: {message}") from error
        return {"bleu": bleu, "chrf": Chrf(**place).compute(**texts)}


def signatures(*, bleu_tokenize: str) -> dict[str, str]:
    """sacreBLEU's statements of how it computes the scores, which make them comparable with others."""
    results = corpus_metrics(["text"], ["text"], bleu_tokenize=bleu_tokenize)
    return {name: result["signature"] for name, result in results.items()}
