"""What computes a reply's tokens: transformers' `generate()`, or CTranslate2 on an exported model."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from chatformer.loading import explained

from .settings import ReplySettings

OnToken = Callable[[int], None]


class ModelNotFound(ValueError):
    """There is no model to talk to; the message says what was looked for and what to do."""


class Engine(Protocol):
    """Computes replies."""

    def generate(self, source_ids: Sequence[int], settings: ReplySettings, on_token: OnToken | None) -> list[int]:
        """
        Return the ids of the reply to a source.

        `on_token` is called with each as soon as it is there. A search over several beams knows them only at the end,
        and does not call it.
        """
        ...


class TransformersEngine:
    """Stock `generate()` on a model."""

    def __init__(self, model: Any, *, device: str | None):
        self.model = model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()

    def generate(self, source_ids: Sequence[int], settings: ReplySettings, on_token: OnToken | None) -> list[int]:
        input_ids = torch.tensor([list(source_ids)], device=self.model.device)
        options: dict[str, Any] = {"num_beams": settings.num_beams, "repetition_penalty": settings.repetition_penalty}
        if settings.no_repeat_ngram_size:
            options["no_repeat_ngram_size"] = settings.no_repeat_ngram_size
        if settings.temperature > 0:
            options |= {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": settings.top_k}
        if settings.max_new_tokens is not None:
            options["max_new_tokens"] = settings.max_new_tokens
        with torch.inference_mode():
            generated = self.model.generate(
                input_ids,
                attention_mask=torch.ones_like(input_ids),
                do_sample=settings.temperature > 0,
                streamer=TokenStreamer(on_token) if on_token is not None and settings.num_beams == 1 else None,
                **options,
            )
        return generated[0].tolist()


class TokenStreamer(BaseStreamer):
    """Hands on each token that `generate()` tells of."""

    def __init__(self, on_token: OnToken):
        self.on_token = on_token

    def put(self, value: torch.Tensor) -> None:
        for token in value.flatten().tolist():
            self.on_token(token)

    def end(self) -> None:
        pass


class CTranslate2Engine:
    """CTranslate2 on a folder that `chatformer export --to ctranslate2` wrote."""

    def __init__(self, folder: Path, *, device: str | None):
        try:
            import ctranslate2
        except ImportError as error:
            raise ModelNotFound("--engine ctranslate2 needs: pip install 'chatformer[ctranslate2]'") from error
        if not (folder / "model.bin").is_file():
            raise ModelNotFound(
                f"{folder} is not a CTranslate2 model. Write one with "
                f"`chatformer export {folder} --to ctranslate2 --output-dir DIR` and give that folder."
            )
        kind, _, index = (device or "auto").partition(":")
        with explained(f"The CTranslate2 model in {folder} could not be loaded"):
            # At these sizes CTranslate2 is fastest with one thread.
            self.translator = ctranslate2.Translator(
                str(folder), device=kind, device_index=int(index or 0), intra_threads=1
            )
            self.tokens = json.loads((folder / "shared_vocabulary.json").read_text("utf-8"))
            self.rows = {token: row for row, token in enumerate(self.tokens)}
            self.max_new_tokens = GenerationConfig.from_pretrained(folder).max_new_tokens

    def generate(self, source_ids: Sequence[int], settings: ReplySettings, on_token: OnToken | None) -> list[int]:
        options: dict[str, Any] = {}
        if settings.temperature > 0:
            # 0 sets no limit there either, and its top_p must be above 0.
            options |= {"sampling_temperature": settings.temperature, "sampling_topp": settings.top_p}
            options["sampling_topk"] = settings.top_k
        if on_token is not None and settings.num_beams == 1:
            # Its answer would stop the search.
            options["callback"] = lambda result: bool(on_token(result.token_id))
        result = self.translator.translate_batch(
            [[self.tokens[row] for row in source_ids]],
            beam_size=settings.num_beams,
            repetition_penalty=settings.repetition_penalty,
            no_repeat_ngram_size=settings.no_repeat_ngram_size,
            max_decoding_length=settings.max_new_tokens or self.max_new_tokens or 256,
            min_decoding_length=0,
            return_end_token=True,
            **options,
        )[0]
        return [self.rows[token] for token in result.hypotheses[0]]

    def score(self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> list[float]:
        """Return the negative log-likelihood, in nats, of each target behind its source; targets end with the end."""
        # The end is put there once more behind what is given.
        without_end = [target[:-1] for target in targets]
        results = self.translator.score_batch(
            self._in_tokens(sources), self._in_tokens(without_end), max_input_length=0
        )
        return [-sum(result.log_probs) for result in results]

    def reply(self, sources: Sequence[Sequence[int]], search: GenerationConfig) -> list[list[int]]:
        """Return the ids of the reply to each source, as the search finds it; all that it looks at is to be set."""
        results = self.translator.translate_batch(
            self._in_tokens(sources),
            beam_size=search.num_beams,
            length_penalty=search.length_penalty,
            no_repeat_ngram_size=search.no_repeat_ngram_size,
            max_decoding_length=search.max_new_tokens,
            min_decoding_length=0,
            max_input_length=0,
            return_end_token=True,
        )
        return [[self.rows[token] for token in result.hypotheses[0]] for result in results]

    def _in_tokens(self, sequences: Sequence[Sequence[int]]) -> list[list[str]]:
        return [[self.tokens[row] for row in sequence] for sequence in sequences]
