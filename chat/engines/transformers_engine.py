"""A sequence-to-sequence model of transformers, with stock `generate()`."""

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from chatformer.loss import IGNORED
from chatformer.one_script import one_script
from chatformer.padding import padded, padded_sources
from chatformer.storage.explaining import explained

from .engine import DEFAULT_MAX_NEW_TOKENS, DEFAULTS, Ids, OnToken


class TransformersEngine:
    """Replies and scores of a model, on the device that it is on."""

    # The process has one seed for all threads.
    num_parallel = 1
    keeps_seeds = True

    def __init__(self, model: Any, tokenizer: Any = None):
        self.model = model
        self.rules = [] if tokenizer is None else one_script(model, tokenizer)

    @classmethod
    def on(cls, device: str | None, model: Any, tokenizer: Any = None) -> "TransformersEngine":
        """An engine of the model on a device, or on a GPU if there is one."""
        # Weights as they are loaded are mapped to their file: if the file is truncated, the process dies.
        for weight in model.parameters():
            weight.data = weight.data.clone()
        with explained(f"--device {device} cannot be used"):
            if device is not None and torch.device(device).type == "meta":
                raise ValueError("it holds no numbers")
            return cls(model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval(), tokenizer)

    @torch.inference_mode()
    def generate(
        self, sources: Sequence[Ids], search: GenerationConfig, on_token: OnToken | None = None
    ) -> list[list[int]]:
        options: dict[str, Any] = {}
        if on_token is not None and search.num_beams == 1:
            rows = Rows(on_token, len(sources), self.end_tokens)
            options |= {"streamer": rows, "stopping_criteria": StoppingCriteriaList([rows.are_ended])}
        generated = self.model.generate(
            **self._inputs(sources),
            generation_config=search,
            # Each process has its own number of replies to compute.
            synced_gpus=False,
            logits_processor=LogitsProcessorList(self.rules),
            **options,
        )
        # The first is the decoder's start token.
        return [up_to_end(ids[1:], self.end_tokens) for ids in generated.tolist()]

    @property
    def end_tokens(self) -> list[int]:
        """The ids that end a reply; a model may have none, or several."""
        ids = self.model.generation_config.eos_token_id
        return ids if isinstance(ids, list) else [] if ids is None else [ids]

    @property
    def own_search(self) -> GenerationConfig:
        return self.model.generation_config

    def repetition_penalty(self, search: GenerationConfig) -> float:
        return search.repetition_penalty or self.own_search.repetition_penalty or DEFAULTS["repetition_penalty"]

    @property
    def max_new_tokens(self) -> int:
        return self.model.generation_config.max_new_tokens or DEFAULT_MAX_NEW_TOKENS

    @torch.inference_mode()
    def score(self, sources: Sequence[Ids], targets: Sequence[Ids]) -> list[float]:
        labels_BT = padded(targets, IGNORED).to(self.model.device)
        logits_BTV = self.model(
            **self._inputs(sources),
            decoder_input_ids=self.model.prepare_decoder_input_ids_from_labels(labels_BT),
            use_cache=False,
        ).logits
        nats_BT = torch.nn.functional.cross_entropy(
            logits_BTV.float().transpose(1, 2), labels_BT, ignore_index=IGNORED, reduction="none"
        )
        # On the CPU: some devices have no float64.
        return nats_BT.cpu().double().sum(-1).tolist()

    def set_seed(self, seed: int) -> None:
        transformers.set_seed(seed)

    def _inputs(self, sources: Sequence[Ids]) -> dict[str, torch.Tensor]:
        inputs = padded_sources(sources, self.model.config.pad_token_id)
        return {name: tensor.to(self.model.device) for name, tensor in inputs.items()}


def up_to_end(ids: list[int], end_tokens: Sequence[int]) -> list[int]:
    """The ids up to the first end token, without the padding that follows it."""
    end = next((index for index, token in enumerate(ids) if token in end_tokens), len(ids))
    return ids[: end + 1]


class Rows(BaseStreamer):
    """Passes each row's tokens to a callback until the row has ended, and says which rows it has ended."""

    def __init__(self, on_token: OnToken, num_rows: int, end_tokens: Sequence[int]):
        self.on_token = on_token
        self.end_tokens = end_tokens
        self.has_ended = [False] * num_rows
        self.has_begun = False

    def put(self, value: torch.Tensor) -> None:
        # The first are the decoder's start tokens, which belong to no reply.
        if self.has_begun:
            for row, token in enumerate(value.tolist()):
                if not self.has_ended[row]:
                    self.has_ended[row] = bool(self.on_token(row, token)) or token in self.end_tokens
        self.has_begun = True

    def end(self) -> None:
        pass

    def are_ended(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """The rows that need no further token, as a criterion of `generate()`, which asks after `put`."""
        return torch.tensor(self.has_ended, device=input_ids.device)
