"""What computes a reply's tokens: transformers' `generate()`, or CTranslate2 on an exported model."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from chatformer.storage.explaining import explained
from chatformer.storage.names import CTRANSLATE2_FILE, CTRANSLATE2_VOCABULARY_FILE

from .errors import ModelNotFound

OnToken = Callable[[int], None]


class Engine(Protocol):
    """Computes replies."""

    def generate(
        self, sources: Sequence[Sequence[int]], search: GenerationConfig, on_token: OnToken | None = None
    ) -> list[list[int]]:
        """
        The ids of the reply to each source, found by `search`, which `ReplySettings.search` makes.

        With a single source, `on_token` is called with each id as soon as it is known. A search over several beams
        knows its ids only at the end, and does not call it.
        """
        ...

    def set_seed(self, seed: int) -> None:
        """Make sampling repeatable from now on."""
        ...


class TransformersEngine:
    """Stock `generate()` on a model."""

    def __init__(self, model: Any, *, device: str | None):
        with explained(f"--device {device} cannot be used"):
            self.model = model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()

    @torch.inference_mode()
    def generate(
        self, sources: Sequence[Sequence[int]], search: GenerationConfig, on_token: OnToken | None = None
    ) -> list[list[int]]:
        ids = [torch.tensor(source) for source in sources]
        # Any id can pad: the mask hides it.
        input_ids = pad_sequence(ids, batch_first=True, padding_value=self.model.config.pad_token_id or 0)
        attention_mask = pad_sequence([torch.ones_like(each) for each in ids], batch_first=True)
        return self.model.generate(
            input_ids.to(self.model.device),
            attention_mask=attention_mask.to(self.model.device),
            generation_config=search,
            streamer=TokenStreamer(on_token) if on_token is not None and search.num_beams == 1 else None,
        ).tolist()

    def set_seed(self, seed: int) -> None:
        transformers.set_seed(seed)


class TokenStreamer(BaseStreamer):
    """Passes each generated token to a callback."""

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
        if not (folder / CTRANSLATE2_FILE).is_file():
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
            self.tokens = json.loads((folder / CTRANSLATE2_VOCABULARY_FILE).read_text("utf-8"))
            self.rows = {token: row for row, token in enumerate(self.tokens)}
            self.own_search = GenerationConfig.from_pretrained(folder)

    def generate(
        self, sources: Sequence[Sequence[int]], search: GenerationConfig, on_token: OnToken | None = None
    ) -> list[list[int]]:
        options: dict[str, Any] = {}
        if search.do_sample:
            # For CTranslate2 too, a top_k of 0 sets no limit.
            options |= {"sampling_temperature": search.temperature, "sampling_topp": search.top_p}
            options["sampling_topk"] = search.top_k
        if on_token is not None and search.num_beams == 1:
            # A callback that returns True would stop the search.
            options["callback"] = lambda result: bool(on_token(result.token_id))
        results = self.translator.translate_batch(
            self._in_tokens(sources),
            beam_size=search.num_beams,
            length_penalty=1.0 if search.length_penalty is None else search.length_penalty,
            repetition_penalty=search.repetition_penalty or self.own_search.repetition_penalty or 1.0,
            no_repeat_ngram_size=search.no_repeat_ngram_size or 0,
            max_decoding_length=search.max_new_tokens or self.own_search.max_new_tokens or 256,
            min_decoding_length=0,
            max_input_length=0,
            return_end_token=True,
            **options,
        )
        return [[self.rows[token] for token in result.hypotheses[0]] for result in results]

    def set_seed(self, seed: int) -> None:
        import ctranslate2

        # Only threads that have not sampled yet take the seed.
        ctranslate2.set_random_seed(seed)

    def score(self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> list[float]:
        """The negative log-likelihood, in nats, of each target given its source; targets include the end token."""
        # CTranslate2 appends the end token itself.
        without_end = [target[:-1] for target in targets]
        results = self.translator.score_batch(
            self._in_tokens(sources), self._in_tokens(without_end), max_input_length=0
        )
        return [-sum(result.log_probs) for result in results]

    def _in_tokens(self, sequences: Sequence[Sequence[int]]) -> list[list[str]]:
        return [[self.tokens[row] for row in sequence] for sequence in sequences]
