"""The spellings that pictures are compared in."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from chatformer.data import tokenizer
from chatformer.pictures import text_of_pixels

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def pixels(monkeypatch):
    # So that what the benchmark replaces there is put back.
    monkeypatch.setattr(tokenizer, "ROWS", tokenizer.ROWS)
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module("pixels")
    sys.modules.pop("pixels", None)


@pytest.mark.parametrize(("variant", "num_tokens"), [("rows", 8), ("fours", 16), ("pixels", 64), ("strided", 64)])
def test_a_spelling_says_how_many_pixels_may_become_one_token(pixels, monkeypatch, variant, num_tokens):
    picture = text_of_pixels(np.zeros((8, 8, 3), dtype=np.uint8))
    monkeypatch.setattr("chatformer.cli.main.main", lambda arguments: len(arguments))
    assert pixels.in_spelling(variant, ["train"]) == 1
    spelt = tokenizer.train_tokenizer([picture] * 9, 600, has_history=False)
    # Each row has its number before it, and the picture a space.
    assert len(spelt.tokenize(picture)) - 8 - spelt.tokenize(picture).count(" ") == num_tokens
    assert spelt.decode(spelt(picture)["input_ids"], skip_special_tokens=True) == picture


def test_a_stride_is_a_row_with_its_number(pixels):
    settings = pixels.Settings(output_dir=Path("runs"), data="digits")
    assert pixels.flags_of("strided", settings)[-4:] == ["--self-attention", "strided", "--stride", "9"]
    assert "--self-attention" not in pixels.flags_of("pixels", settings)


def test_an_unknown_variant_is_told_of(pixels, tmp_path, capsys):
    assert pixels.main(["--output-dir", str(tmp_path / "runs"), "--variants", "columns"]) == 2
    assert "--variants columns: there is no such variant. They are rows, fours" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
