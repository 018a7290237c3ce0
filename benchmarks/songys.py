"""
songys/Chatbot_data split as in the published comparison of pretrained models, to train and test on.

    python benchmarks/songys.py --data ChatbotData.csv --output-dir runs/songys-data
    for seed in 1 2 3; do
        OMP_NUM_THREADS=1 chatformer train --recipe benchmarks/recipes/songys.yaml \
            --data runs/songys-data/training.csv --validation-data runs/songys-data/validation.csv \
            --seed $seed --output-dir runs/songys-$seed &
    done; wait
    chatformer ensemble runs/songys-1 runs/songys-2 runs/songys-3 --output-dir runs/songys
    chatformer evaluate runs/songys --data runs/songys-data/test.csv --bleu-tokenize ko-mecab \
        --num-beams 4 --length-penalty 0.5

The split is of the rows, at random, eight, one and one tenths (9,458, 1,182 and 1,183 of the original's 11,823 rows).
Half of the answers of such a test part are in the training part too, word for word: `chatformer evaluate` gives the
figures of the two halves separately, and those of the nearest question's answer. The beams and their length penalty
were chosen by the validation part.
"""

import csv
import random
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Write the three parts of the data."""

    data: Path
    """The table, ChatbotData.csv."""
    output_dir: Path
    """Folder of training.csv, validation.csv and test.csv."""
    seed: int = 42
    """Seed that splits the rows."""


def main() -> None:
    settings = tyro.cli(Settings)
    with settings.data.open(encoding="utf-8", newline="") as file:
        names, *rows = csv.reader(file)
    random.Random(settings.seed).shuffle(rows)
    tenth = len(rows) // 10
    parts = {"validation": rows[:tenth], "test": rows[tenth : 2 * tenth], "training": rows[2 * tenth :]}
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        with (settings.output_dir / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([names, *part])
        print(f"{name}: {len(part)} rows")


if __name__ == "__main__":
    main()
