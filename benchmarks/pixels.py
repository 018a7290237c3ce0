"""
How a picture is best spelt, at equal time: rows, fours of pixels, or a pixel a token, in full and in strided attention.

    python benchmarks/pixels.py --output-dir runs/pixels --minutes 15

Each variant trains on the same pictures by their recipe for --minutes, and is then measured on the pictures that are
held out. Bits per pixel can be compared between spellings, as each says the same pixels. A spelling is what the
tokenizer's byte-pair encoding may join: all pixels of a row, four that follow each other, or none. Strided attention
looks at the row so far and at the column above, as that of Child et al. (2019, arXiv:1904.10509) does.

The folder gets a folder for each variant and pixels.md, the table. A variant that is finished is not trained again.
Needs `chatformer[pictures]`.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from machine import markdown_table, run
from transformers import AutoTokenizer

from chatformer.data import tokenizer as training_of_tokenizers
from chatformer.pictures import COLOURS, NUMBERS

SIDES = {"digits": 8, "emoji": 24}
"""Pixels of a row, by data."""
SPELLINGS = {"rows": "+", "fours": "{1,4}", "pixels": "{1}", "strided": "{1}"}
"""By variant, how many pixels in a row may become one token."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Train the same pictures in several spellings for the same time, and write a table."""

    output_dir: Path
    """Folder of the runs and of the table."""
    data: Literal["digits", "emoji"] = "emoji"
    """The pictures; their recipe has the same name."""
    minutes: float = 15.0
    """Of each training."""
    variants: tuple[str, ...] = tuple(SPELLINGS)
    """The variants, in the order of the table."""


def flags_of(variant: str, settings: Settings) -> list[str]:
    """The flags of `chatformer train` for a variant."""
    side = SIDES[settings.data]
    flags = ["--recipe", settings.data, "--minutes", str(settings.minutes), "--max-target-tokens", str(side**2 + 64)]
    if variant == "strided":
        # A row is its number and its pixels, so that what is a stride away is the pixel above.
        flags += ["--self-attention", "strided", "--stride", str(side + 1)]
    return flags


def in_spelling(variant: str, arguments: Sequence[str]) -> int:
    """Run `chatformer` with the spelling of a variant."""
    from chatformer.cli.main import main as chatformer

    training_of_tokenizers.ROWS = rf"[{NUMBERS}]|[{COLOURS}]{SPELLINGS[variant]}"
    return chatformer(arguments)


def measure(settings: Settings) -> None:
    """Train and measure each variant, and write the table."""
    for variant in settings.variants:
        if variant not in SPELLINGS:
            raise ValueError(f"--variants {variant}: there is no such variant. They are {', '.join(SPELLINGS)}.")
    rows = []
    for variant in settings.variants:
        folder = settings.output_dir / variant
        figures = settings.output_dir / f"{variant}.json"
        if not figures.is_file():
            start = [sys.executable, __file__, "in-spelling", variant]
            # As the ladder does.
            is_begun = any(folder.glob("checkpoint-*"))
            own = ["--resume"] if is_begun else [*flags_of(variant, settings), "--overwrite-output-dir"]
            subprocess.run([*start, "train", *own, "--output-dir", str(folder)], check=True)
            held_out = ["--data", f"{settings.data}-held-out", "--output-file", str(figures)]
            subprocess.run([*start, "evaluate", str(folder), *held_out], check=True)
        rows.append(row_of(variant, json.loads(figures.read_text("utf-8")), folder))
    head = ["spelling", "tokens a picture", "steps", "bits per pixel", "right pixels", "nearest of all"]
    table = markdown_table(head, rows)
    (settings.output_dir / "pixels.md").write_text(table, "utf-8")
    print(table, end="")


def row_of(variant: str, evaluation: dict[str, Any], folder: Path) -> list[str]:
    """The table's row of a variant."""
    pictures = evaluation["pictures"]
    model = pictures["figures"]["model"]
    record = json.loads((folder / "training_record.json").read_text("utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    spelt = tokenizer([item["reference"] for item in evaluation["items"]], verbose=False)["input_ids"]
    tokens = sum(map(len, spelt)) / len(spelt)
    return [
        variant,
        f"{tokens:.0f}",
        f"{record['steps_taken']:,}",
        f"{pictures['bits_per_pixel']:.4f}",
        f"{model['pixel_accuracy']:.1f}%",
        f"{model['nearest']:.1f}%",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as a command line says; return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["in-spelling"]:
        return in_spelling(given[1], given[2:])
    return run(measure, Settings, given, prog="python benchmarks/pixels.py", description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
