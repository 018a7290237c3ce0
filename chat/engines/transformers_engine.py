"""A sequence-to-sequence model of transformers, with stock `generate()`."""

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from chatformer.loss import IGNORED
from chatformer.padding import padded, padded_sources
from chatformer.storage.explaining import explained

from .engine import Ids, OnToken


class TransformersEngine:
    """Replies and scores of a model, on the device that it is on."""

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
            **self._inputs(sources),
            generation_config=search,
            # Each process has its own number of replies to compute.
            synced_gpus=False,
            streamer=TokenStreamer(on_token) if on_token is not None and search.num_beams == 1 else None,
        ).tolist()

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
        return nats_BT.double().sum(-1).tolist()

    def set_seed(self, seed: int) -> None:
        transformers.set_seed(seed)

    def _inputs(self, sources: Sequence[Ids]) -> dict[str, torch.Tensor]:
        inputs = padded_sources(sources, self.model.config.pad_token_id)
        return {name: tensor.to(self.model.device) for name, tensor in inputs.items()}


class TokenStreamer(BaseStreamer):
    """Passes each generated token to a callback."""

    def __init__(self, on_token: OnToken):
        self.on_token = on_token

    def put(self, value: torch.Tensor) -> None:
        for token in value.flatten().tolist():
            self.on_token(token)

    def end(self) -> None:
        pass
