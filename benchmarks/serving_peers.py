"""Other servers of the same model, each as its own documentation shows it: `python serving_peers.py NAME DIR PORT`."""

import json
import sys
from pathlib import Path
from typing import Any

import ctranslate2
import litserve
from transformers import AutoTokenizer

from chatformer.conversation import encode_conversation
from chatformer.storage.names import CTRANSLATE2_VOCABULARY_FILE


class LitReplies(litserve.LitAPI):
    """CTranslate2 behind LitServe's own batches."""

    def setup(self, device: str) -> None:
        folder = Path(sys.argv[2])
        self.translator = ctranslate2.Translator(str(folder), intra_threads=1)
        self.tokens = json.loads((folder / CTRANSLATE2_VOCABULARY_FILE).read_text("utf-8"))
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def decode_request(self, request: dict[str, Any]) -> tuple[list[int], int]:
        return encode_conversation(self.tokenizer, request["messages"]), request["max_tokens"]

    def predict(self, batch: list[tuple[list[int], int]]) -> list[list[str]]:
        limits = [limit for _, limit in batch]
        results = self.translator.translate_batch(
            [[self.tokens[row] for row in source] for source, _ in batch],
            beam_size=1,
            min_decoding_length=0,
            max_decoding_length=max(limits),
        )
        return [result.hypotheses[0][:limit] for result, limit in zip(results, limits, strict=True)]

    def encode_response(self, reply: list[str]) -> dict[str, Any]:
        text = self.tokenizer.decode(self.tokenizer.convert_tokens_to_ids(reply), skip_special_tokens=True)
        return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}


def serve_by_litserve(port: int) -> None:
    replies = LitReplies(max_batch_size=32, batch_timeout=0.005, api_path="/v1/chat/completions")
    server = litserve.LitServer(replies, accelerator="cpu", workers_per_device=2)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning")


def serve_by_ray(port: int) -> None:
    """Two replicas of our own app."""
    import ray
    from ray import serve

    from chatformer.chat.serving.cluster import ClusterSettings, build

    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    options: dict[str, Any] = {
        "http_options": {"host": "127.0.0.1", "port": port},
        "logging_config": {"log_level": "WARNING"},
    }
    try:
        serve.start(**options)
    except TimeoutError:
        # Ray waits for its proxy for a minute, and lets it go on starting.
        serve.start(**options)
    settings = ClusterSettings(
        model=sys.argv[2], engine="ctranslate2", model_name="model", min_replicas=2, max_replicas=2
    )
    serve.run(build(settings), logging_config={"log_level": "WARNING", "enable_access_log": False}, blocking=True)


if __name__ == "__main__":
    {"litserve": serve_by_litserve, "ray": serve_by_ray}[sys.argv[1]](int(sys.argv[3]))
