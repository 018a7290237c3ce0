"""What computes replies and scores: a model of transformers, or CTranslate2 on an exported model."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import transformers
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from chatformer.loss import IGNORED
from chatformer.storage.explaining import explained
from chatformer.storage.names import CTRANSLATE2_FILE, CTRANSLATE2_VOCABULARY_FILE

from .errors import ModelNotFound

Ids = Sequence[int] | np.ndarray
OnToken = Callable[[int], None]


class Engine(Protocol):
    """Computes replies and scores, a batch at a time."""

    def generate(
        self, sources: Sequence[Ids], search: GenerationConfig, on_token: OnToken | None = None
    ) -> list[list[int]]:
        """
        The ids of the reply to each source, found by `search`, which `ReplySettings.search` makes.

        With a single source, `on_token` is called with each id as soon as it is known. A search over several beams
        knows its ids only at the end, and does not call it.
        """
        ...

    def score(self, sources: Sequence[Ids], targets: Sequence[Ids]) -> list[float]:
        """The negative log-likelihood, in nats, of each target given its source; targets include the end token."""
        ...

    def set_seed(self, seed: int) -> None:
        """Make sampling repeatable from now on."""
        ...


class TransformersEngine:
    """A sequence-to-sequence model of transformers, with stock `generate()`."""

    def __init__(self, model: Any):
        self.model = model

    @classmethod
    def on(cls, device: str | None, model: Any) -> "TransformersEngine":
        """An engine of the model on a device, or on a GPU if there is one."""
        with explained(f"--device {device} cannot be used"):
            return cls(model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval())

    @torch.inference_mode()
    def generate(
        self, sources: Sequence[Ids], search: GenerationConfig, on_token: OnToken | None = None
    ) -> list[list[int]]:
        return self.model.generate(
            **self._padded(sources),
            generation_config=search,
            # Each process has its own number of replies to compute.
            synced_gpus=False,
            streamer=TokenStreamer(on_token) if on_token is not None and search.num_beams == 1 else None,
        ).tolist()

    @torch.inference_mode()
    def score(self, sources: Sequence[Ids], targets: Sequence[Ids]) -> list[float]:
        labels_BT = padded(targets, IGNORED).to(self.model.device)
        logits_BTV = self.model(
            **self._padded(sources),
            decoder_input_ids=self.model.prepare_decoder_input_ids_from_labels(labels_BT),
            use_cache=False,
        ).logits
        nats_BT = torch.nn.functional.cross_entropy(
            logits_BTV.float().transpose(1, 2), labels_BT, ignore_index=IGNORED, reduction="none"
        )
        return nats_BT.double().sum(-1).tolist()

    def set_seed(self, seed: int) -> None:
        transformers.set_seed(seed)

    def _padded(self, sources: Sequence[Ids]) -> dict[str, torch.Tensor]:
        """The sources as the model reads them."""
        # Any id can pad: the mask hides it.
        input_ids = padded(sources, self.model.config.pad_token_id or 0).to(self.model.device)
        attention_mask = padded([np.ones_like(source) for source in sources], 0).to(self.model.device)
        return {"input_ids": input_ids, "attention_mask": attention_mask}


def padded(sequences: Sequence[Ids], padding: int) -> torch.Tensor:
    """Sequences as the rows of a tensor, padded to the longest."""
    tensors = [torch.tensor(sequence, dtype=torch.long) for sequence in sequences]
    return pad_sequence(tensors, batch_first=True, padding_value=padding)


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
        self, sources: Sequence[Ids], search: GenerationConfig, on_token: OnToken | None = None
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

    def score(self, sources: Sequence[Ids], targets: Sequence[Ids]) -> list[float]:
        # CTranslate2 appends the end token itself.
        without_end = [target[:-1] for target in targets]
        results = self.translator.score_batch(
            self._in_tokens(sources), self._in_tokens(without_end), max_input_length=0
        )
        return [-sum(result.log_probs) for result in results]

    def _in_tokens(self, sequences: Sequence[Ids]) -> list[list[str]]:
        return [[self.tokens[row] for row in sequence] for sequence in sequences]
