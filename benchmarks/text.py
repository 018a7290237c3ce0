"""The text that the benchmarks run on, and the sizes of the models that they compare."""

from dataclasses import dataclass
from typing import Literal

from chatformer.configuration.training import TrainingSettings

SIZES = {"tiny": "tiny", "2x256": "mini", "4x256": "small", "base": "base"}
"""The benchmarks' sizes, by layers and width, and what `chatformer train --size` calls them."""


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """The text, and the size of the models."""

    data: tuple[str, ...] = ("starter",)
    """Conversations in any form that `chatformer train --data` takes, such as a CSV file, or two text files, line by
    line question and answer; the corpus that comes with chatformer unless given."""
    max_train_samples: int | None = None
    """Use only the first so many rows of --data."""
    size: Literal["tiny", "2x256", "4x256", "base"] = "2x256"
    """Layers and width: 2x256 has 2 + 2 layers, d_model 256 and d_ff 512, 4x256 has 4 + 4, 256 and 1,024, base is the
    paper's, 6 + 6, 512 and 2,048; tiny, 2 + 2, 128 and 512, is for trying things out."""
    vocab_size: int = 8000
    """Most tokens of the vocabulary that is trained on --data; small data gives fewer."""
    seed: int = 42
    """Seed of the split, the first weights and the order of the data."""


def training_settings(text: TextSettings) -> TrainingSettings:
    """Settings of `chatformer train`: its defaults, with the text, the size, and no plan of its own."""
    changes = {
        "data": list(text.data),
        "max_train_samples": text.max_train_samples,
        "size": SIZES[text.size],
        "vocab_size": text.vocab_size,
        "seed": text.seed,
        "num_train_epochs": 20,
        "tokens_per_step": 2000,
        "learning_rate": 1e-3,
        "warmup_steps": 200,
        "ema_decay": 0,
        "bpe_dropout": 0,
        "other_topics_fraction": 0,
        "eval_steps": 1000,
        "repetition_penalty": 1,
        "metric_for_best_model": "loss",
        # Nothing is written.
        "dry_run": True,
    }
    return TrainingSettings().changed(changes, where="benchmark")
