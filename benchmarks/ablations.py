"""
What each part of the Transformer is good for: the same training with a part taken out, one part at a time.

    python benchmarks/ablations.py --output-dir ablations

Each variant trains by the recipe `quickstart`, on the starter corpus, with two layers and fewer steps; the first one is
complete. A part is taken out of the model by replacing a module, here and not in the model's files: read the functions
below next to those. The figures are those of each run's last evaluation, on conversations that were kept out of the
training.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from machine import markdown_table
from torch import Tensor, nn

from chatformer.attention import CrossAttention, MaskedSelfAttention, MultiHeadAttention
from chatformer.feed_forward import FeedForward


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Train the Transformer with one part after the other taken out, and write a table."""

    output_dir: Path
    """Folder of the runs and of the table, ablations.md; a run that is finished there is not repeated."""
    max_steps: int = 2500
    """Steps of each training. With a warm-up much shorter than the recipe's, none of them begins to listen."""
    only: tuple[str, ...] = ()
    """Variants to train, such as complete positions; all unless given."""


class NoPositions(nn.Module):
    """Says nothing about where a token is."""

    def forward(self, position_ids_BT: Tensor, num_positions: int) -> Tensor:
        return torch.zeros((), device=position_ids_BT.device)


class Nothing(FeedForward):
    """Adds nothing to its input."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class UnscaledQuery(nn.Linear):
    """Queries that are sqrt(d_k) times as long, which undoes the scaling of their scores."""

    factor: float

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.factor


class WithoutAdd(nn.Module):
    """Of a sublayer: LayerNorm(Sublayer(x)) in place of LayerNorm(x + Sublayer(x)), which is exact without dropout."""

    def forward(self, x: Tensor, *inputs: Any, **options: Any) -> Any:
        result = super().forward(x, *inputs, **options)
        return (result[0] - x, *result[1:]) if isinstance(result, tuple) else result - x


class FeedForwardWithoutAdd(WithoutAdd, FeedForward):
    pass


class AttentionWithoutAdd(WithoutAdd, MultiHeadAttention):
    pass


class SelfAttentionWithoutAdd(WithoutAdd, MaskedSelfAttention):
    pass


class CrossAttentionWithoutAdd(WithoutAdd, CrossAttention):
    pass


WITHOUT_ADD = {
    FeedForward: FeedForwardWithoutAdd,
    MultiHeadAttention: AttentionWithoutAdd,
    MaskedSelfAttention: SelfAttentionWithoutAdd,
    CrossAttention: CrossAttentionWithoutAdd,
}


def layers_of(model: Any) -> list[nn.Module]:
    return [*model.model.encoder.layers, *model.model.decoder.layers]


def without_positions(model: Any) -> None:
    model.model.encoder.positions = NoPositions()
    model.model.decoder.positions = NoPositions()


def without_feed_forward(model: Any) -> None:
    for layer in layers_of(model):
        layer.feed_forward = Nothing(model.config)


def without_norm(model: Any) -> None:
    for layer in layers_of(model):
        for name, part in list(layer.named_children()):
            if isinstance(part, nn.LayerNorm):
                setattr(layer, name, nn.Identity())


def without_add(model: Any) -> None:
    for layer in layers_of(model):
        for name, part in list(layer.named_children()):
            if type(part) in WITHOUT_ADD:
                position = [] if isinstance(part, FeedForward) else [part.layer_index]
                sublayer = WITHOUT_ADD[type(part)](model.config, *position)
                sublayer.load_state_dict(part.state_dict())
                setattr(layer, name, sublayer)


def without_scaling(model: Any) -> None:
    for attention in [part for part in model.modules() if hasattr(part, "scaling")]:
        query = attention.query
        unscaled = UnscaledQuery(query.in_features, query.out_features)
        unscaled.load_state_dict(query.state_dict())
        unscaled.factor = 1 / attention.scaling
        attention.query = unscaled


VARIANTS: dict[str, tuple[str, Callable[[Any], None]]] = {
    "complete": ("nothing: the complete model", lambda model: None),
    "positions": ("positions", without_positions),
    "add": ("add: no residual connections", without_add),
    "norm": ("norm: no layer normalization", without_norm),
    "feed-forward": ("feed forward", without_feed_forward),
    "scaling": ("scaling by the root of d_k", without_scaling),
}
"""By name, what is left out, and the function that takes it out of a new model."""


def train(name: str, folder: Path, max_steps: int) -> int:
    """Train a variant; return the exit status."""
    from chatformer.training import run
    from chatformer.training.train import main

    new_model = run.new_model

    def new_variant(*arguments: Any, **options: Any) -> Any:
        model = new_model(*arguments, **options)
        VARIANTS[name][1](model)
        return model

    run.new_model = new_variant
    lengths = ["--max-steps", str(max_steps), "--eval-steps", str(max_steps)]
    layers = ["--encoder-layers", "2", "--decoder-layers", "2"]
    return main(["--recipe", "quickstart", "--output-dir", str(folder), *layers, *lengths])


def table(results: dict[str, dict[str, Any]]) -> str:
    """The figures as Markdown."""
    rows = []
    for name, (left_out, _) in VARIANTS.items():
        if name not in results:
            continue
        result = results[name]
        if "eval_loss" not in result:
            rows.append([left_out, "the training failed", "", "", ""])
            continue
        rows.append(
            [
                left_out,
                f"{result['eval_loss']:.2f}",
                f"{result['eval_exact_match']:.0f}%",
                str(result["eval_distinct_replies"]),
                f"{round(result['eval_source_gain'], 2) + 0:.2f}",
            ]
        )
    return markdown_table(["left out", "loss", "exact replies", "different replies", "bits saved by listening"], rows)


def main(settings: Settings) -> None:
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    results = {}
    for name in settings.only or VARIANTS:
        folder = settings.output_dir / name
        log_file = folder / "training_log.jsonl"
        if not (folder / "model.safetensors").exists():
            # A process of its own: each training begins with the same state of random numbers and threads.
            command = [sys.executable, __file__, "train-variant", name, str(folder), str(settings.max_steps)]
            status = subprocess.run(command).returncode
            if status not in (0, 1, 2):
                sys.exit(status)
        lines = [json.loads(line) for line in log_file.read_text("utf-8").splitlines()] if log_file.exists() else []
        results[name] = next((line for line in reversed(lines) if "eval_loss" in line), {})
    text = table(results)
    (settings.output_dir / "ablations.md").write_text(text, "utf-8")
    print(text, end="")


if __name__ == "__main__":
    if sys.argv[1:2] == ["train-variant"]:
        sys.exit(train(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])))
    main(tyro.cli(Settings))
