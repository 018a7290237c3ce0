"""CTranslate2 on a folder that `chatformer export --to ctranslate2` wrote."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from chatformer.chat.errors import ModelNotFound
from chatformer.storage.explaining import explained
from chatformer.storage.names import CTRANSLATE2_FILE, CTRANSLATE2_VOCABULARY_FILE

from .engine import DEFAULT_MAX_NEW_TOKENS, DEFAULTS, Ids, OnToken

DRAWN_BY = ("temperature", "top_p", "top_k")
"""What drawing goes by."""


class CTranslate2Engine:
    """CTranslate2 on a folder that `chatformer export --to ctranslate2` wrote."""

    # Only threads that have not sampled yet take a seed.
    keeps_seeds = False

    def __init__(self, folder: Path, *, device: str | None, num_parallel: int = 1):
        try:
            import ctranslate2
        except ImportError as error:
            raise ModelNotFound("--engine ctranslate2 needs: pip install 'chatformer[ctranslate2]'") from error
        if not (folder / CTRANSLATE2_FILE).is_file():
            raise ModelNotFound(
                f"{folder} is not a CTranslate2 model. Write one with "
                f"`chatformer export {folder} --to ctranslate2 --output-dir DIR` and give that folder."
            )
        self.num_parallel = num_parallel
        kind, _, index = (device or "auto").partition(":")
        with explained(f"The CTranslate2 model in {folder} could not be loaded"):
            # At these sizes CTranslate2 is fastest with one thread.
            self.translator = ctranslate2.Translator(
                str(folder),
                device=kind,
                device_index=int(index or 0),
                inter_threads=num_parallel,
                intra_threads=1,
            )
            self.tokens = json.loads((folder / CTRANSLATE2_VOCABULARY_FILE).read_text("utf-8"))
            self.rows = {token: row for row, token in enumerate(self.tokens)}
            self.own_search = GenerationConfig.from_pretrained(folder)

    def generate(
        self, sources: Sequence[Ids], search: GenerationConfig, on_token: OnToken | None = None
    ) -> list[list[int]]:
        options: dict[str, Any] = {}
        own = self.own_search
        if search.do_sample or (search.do_sample is None and own.do_sample):
            given = {name: getattr(search, name) for name in DRAWN_BY}
            temperature, top_p, top_k = (
                next(value for value in (given[name], getattr(own, name), DEFAULTS[name]) if value is not None)
                for name in DRAWN_BY
            )
            # For CTranslate2 too, a top_k of 0 sets no limit.
            options |= {"sampling_temperature": temperature, "sampling_topp": top_p, "sampling_topk": top_k}
        if on_token is not None and search.num_beams == 1:
            options["callback"] = lambda result: bool(on_token(result.batch_id, result.token_id))
        results = self.translator.translate_batch(
            self._in_tokens(sources),
            beam_size=search.num_beams,
            length_penalty=1.0 if search.length_penalty is None else search.length_penalty,
            repetition_penalty=self.repetition_penalty(search),
            no_repeat_ngram_size=search.no_repeat_ngram_size or 0,
            max_decoding_length=search.max_new_tokens or self.max_new_tokens,
            min_decoding_length=0,
            max_input_length=0,
            return_end_token=True,
            **options,
        )
        return [[self.rows[token] for token in result.hypotheses[0]] for result in results]

    def repetition_penalty(self, search: GenerationConfig) -> float:
        """
        The one that is asked for, or else the model's own, but not with beams.

        CTranslate2 applies it to logits, where transformers' beams have it on their logarithms of probabilities, and so
        spoils replies that are right.
        """
        own = self.own_search.repetition_penalty if search.num_beams == 1 else None
        return search.repetition_penalty or own or DEFAULTS["repetition_penalty"]

    def score(self, sources: Sequence[Ids], targets: Sequence[Ids]) -> list[float]:
        # CTranslate2 appends the end token itself.
        without_end = [target[:-1] for target in targets]
        results = self.translator.score_batch(
            self._in_tokens(sources), self._in_tokens(without_end), max_input_length=0
        )
        return [-sum(result.log_probs) for result in results]

    @property
    def max_new_tokens(self) -> int:
        return self.own_search.max_new_tokens or DEFAULT_MAX_NEW_TOKENS

    def set_seed(self, seed: int) -> None:
        import ctranslate2

        ctranslate2.set_random_seed(seed)

    def _in_tokens(self, sequences: Sequence[Ids]) -> list[list[str]]:
        return [[self.tokens[row] for row in sequence] for sequence in sequences]
