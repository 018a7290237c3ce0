"""What a benchmark counts and draws of what a model has learnt."""

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chatformer.chat.chatbot import Chatbot
from chatformer.configuration.replies import ReplySettings
from chatformer.data.emojis import Emoji
from chatformer.pictures import pixels_of_text

FOLDER = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.fixture
def pictures(monkeypatch):
    """The benchmark's module."""
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module("pictures")
    sys.modules.pop("pictures")


def test_things_are_counted_and_drawn(pictures, drawer, monkeypatch, tmp_path, capsys):
    chatbot = Chatbot.from_pretrained(str(drawer), device="cpu")
    names = ("red square", "blue stripes", "lime square", "red stripes")
    drawn = {name: chatbot.reply([{"role": "user", "content": name}], ReplySettings()) for name in names}
    true = {**drawn, "red stripes": drawn["red square"]}
    things = [Emoji(f"{number}", (name,), (name,), true[name]) for number, name in enumerate(names)]
    # Not asked for; and what is drawn of the stripes is nearest to one of them.
    stripes = drawn["red stripes"]
    others = [Emoji("👍🏽", ("손",), ("hand",), stripes), Emoji("💚", ("하트",), ("heart",), stripes)]
    monkeypatch.setattr(pictures, "emojis", lambda: (*things, *others))
    file = tmp_path / "things.png"
    flags = ["--num-things", "4", "--num-pairs", "2", "--output-file", str(file)]
    assert pictures.main(["things", str(drawer), *flags]) == 0
    (row,) = re.findall(r"^\| 8 \| (.*)% \|$", capsys.readouterr().out, re.MULTILINE)
    exact, nearest, right_pixels, empty = map(float, row.split("% | "))
    assert (exact, nearest, empty) == (75, 75, 0) and 75 < right_pixels < 100
    sheet = np.asarray(Image.open(file))[::2, ::2]
    # Two pairs side by side, a line between a pair's pictures and a rim around them.
    assert sheet.shape == (6 + 1 + 6 + 4, 2 * (6 + 2), 3)
    above, below = sheet[2:8, 1:7], sheet[9:15, 1:7]
    pairs = [(pixels_of_text(true[name]), pixels_of_text(drawn[name])) for name in names]
    assert any((above == first).all() and (below == second).all() for first, second in pairs)


def test_more_things_than_there_are_is_an_error(pictures, drawer, capsys):
    assert pictures.main(["things", str(drawer), "--num-things", "99999"]) == 2
    assert re.search(r"^error: --num-things 99999: there are [\d,]+ of them\.$", capsys.readouterr().err, re.MULTILINE)
