"""
Conversations of several turns from SmileStyle's table, to train with recipes/smilestyle.yaml.

    python benchmarks/smilestyle.py --data smilestyle_dataset.tsv --output-dir runs/smilestyle-data
    chatformer train --recipe benchmarks/recipes/smilestyle.yaml --data runs/smilestyle-data/training.jsonl \
        --validation-data runs/smilestyle-data/validation.jsonl --output-dir runs/smilestyle

The table (Smilegate AI, https://github.com/smilegate-ai/korean_smile_style_dataset; its licence forbids commercial use)
has a turn in each row, in up to 17 styles, and a blank row between conversations. This script writes each conversation
once in each of its styles, with the style's name as the system message, and once more from its second turn on, so that
both speakers' turns are learnt. A tenth of the conversations, in all their styles, is for validation.
"""

import csv
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from chatformer.storage.writing import json_line


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Write SmileStyle's conversations as messages."""

    data: Path
    """The table, smilestyle_dataset.tsv."""
    output_dir: Path
    """Folder of training.jsonl and validation.jsonl."""
    validation_fraction: float = 0.1
    """Share of the conversations for validation."""
    seed: int = 42
    """Seed that draws them."""


def conversations_of(path: Path) -> Iterator[list[dict[str, str]]]:
    """Yield the conversations as lists of turns; a turn is a dictionary of its wordings by style."""
    with path.open(encoding="utf-8", newline="") as file:
        turns: list[dict[str, str]] = []
        for row in csv.DictReader(file, delimiter="\t"):
            turn = {style: text.strip() for style, text in row.items() if style and text and text.strip()}
            if turn:
                turns.append(turn)
            elif turns:
                yield turns
                turns = []
        if turns:
            yield turns


def in_each_style(turns: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
    """Yield a conversation in each of its styles, from its first and from its second turn on."""
    for style in turns[0]:
        if not all(style in turn for turn in turns):
            continue
        for begin in (0, 1):
            spoken = turns[begin:]
            spoken = spoken[: len(spoken) // 2 * 2]
            messages = [
                {"role": ("user", "assistant")[number % 2], "content": turn[style]}
                for number, turn in enumerate(spoken)
            ]
            yield {"messages": [{"role": "system", "content": style}, *messages]}


def main() -> None:
    settings = tyro.cli(Settings)
    conversations = list(conversations_of(settings.data))
    random.Random(settings.seed).shuffle(conversations)
    num_validation = round(settings.validation_fraction * len(conversations))
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    for name, part in (("validation", conversations[:num_validation]), ("training", conversations[num_validation:])):
        lines = [json_line(conversation) for turns in part for conversation in in_each_style(turns)]
        (settings.output_dir / f"{name}.jsonl").write_text("".join(lines), "utf-8")
        print(f"{name}: {len(part)} conversations, {len(lines)} with all styles and beginnings")


if __name__ == "__main__":
    main()
