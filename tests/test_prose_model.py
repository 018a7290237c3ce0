"""A model of prose, from a text to its card: what it draws by, and the words and figures that are about it."""

import dataclasses
import json
import random

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from chatformer.cli.main import main
from chatformer.hub.card import write_card
from chatformer.storage.run_folder import Records

WORDS = ["the", "a", "old", "devil", "fire", "sin", "love", "king", "queen", "night", "day", "sword", "crown", "heart"]


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    chance = random.Random(1)
    path = tmp_path_factory.mktemp("book") / "book.txt"
    paragraphs = []
    for number in range(20):
        paragraphs.append(f"Chapter {number + 1}")
        for _ in range(10):
            sentences = [" ".join(chance.choices(WORDS, k=chance.randint(4, 9))).capitalize() + "." for _ in range(6)]
            paragraphs.append(" ".join(sentences))
    path.write_text("\n\n".join(paragraphs), "utf-8")
    return path


@pytest.fixture(scope="module")
def writer(train, flags, book, tmp_path_factory):
    """Return the folder of a model that was trained on prose for a few steps."""
    folder = tmp_path_factory.mktemp("writer") / "model"
    limits = {"max_source_tokens": 128, "max_target_tokens": 128}
    assert train(flags(folder, data=book, max_steps=30, eval_steps=30, max_eval_replies=12, **limits)) == 0
    return folder


def test_the_model_draws_by_its_own_settings(writer):
    saved = json.loads((writer / "generation_config.json").read_text("utf-8"))
    assert (saved["do_sample"], saved["temperature"], saved["top_p"], saved["top_k"]) == (True, 0.8, 0.95, 0)
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(writer), AutoTokenizer.from_pretrained(writer)
    inputs = tokenizer("The old devil", return_tensors="pt")
    torch.manual_seed(0)
    drawn = {tuple(model.generate(**inputs, max_new_tokens=10)[0].tolist()) for _ in range(3)}
    assert len(drawn) > 1


def test_the_log_has_nothing_that_prose_has_not(writer):
    lines = [json.loads(line) for line in (writer / "training_log.jsonl").read_text("utf-8").splitlines()]
    (evaluation,) = (line for line in lines if "eval_loss" in line)
    assert evaluation["eval_bits_per_character"] > 0
    assert not {"eval_exact_match", "eval_chrf", "eval_score"} & evaluation.keys()


def test_an_evaluation_compares_with_real_text(writer, tmp_path, capsys):
    files = [tmp_path / f"{number}.json" for number in range(2)]
    for file in files:
        arguments = ["--max-replies", "20", "--device", "cpu", "--output-file", str(file)]
        assert main(["evaluate", str(writer), *arguments]) == 0
    one, two = (json.loads(file.read_text("utf-8")) for file in files)
    # What is drawn is the same each time.
    assert one["prose"] == two["prose"] and one["items"] == two["items"]
    assert one["prose"].keys() == {"model", "real"}
    assert one["prose"]["real"]["repeated_4_grams"] < 10
    assert one["baselines"] == {} and one["figures"]["all"]["exact_match"] is None
    printed = capsys.readouterr().out
    assert "told apart from real text, %" in printed and "exact match" not in printed


def test_the_doctor_speaks_of_prose(writer, book, capsys):
    main(["doctor", str(writer), "--device", "cpu", "--max-exchanges", "20"])
    words = capsys.readouterr().out
    assert "passages" in words and "prompt" in words
    for foreign in ("same answer", "free baseline", "listens", "questions have"):
        assert foreign not in words
    main(["doctor", str(book)])
    words = capsys.readouterr().out
    assert "characters of continuations" in words and "There is little to learn from" in words


def test_the_card_speaks_of_prose(writer):
    samples = [("The old devil", "sat by the fire.")]
    options = {"repo_id": "you/writer", "revision": "0" * 40, "languages": ["en", "ko"], "license": None}
    records = Records.read(writer)
    figures = {"distinct_1": 40.0, "told_apart": None}
    evaluation = {
        "figures": {"all": {"loss": 3.0}},
        "prose": {"model": figures, "real": figures | {"distinct_1": 50.0}},
    }
    card = write_card(dataclasses.replace(records, evaluation=evaluation), samples, **options).decode()
    assert "| distinct-1, % | 40 | 50 |" in card and "told apart" not in card
    card = write_card(records, samples, **options).decode()
    assert "A small writer of prose" in card and "| The old devil | sat by the fire. |" in card
    assert "temperature 0.8 and top-p 0.95" in card and "Chapters kept out of training" in card
    assert "greedy" not in card and "Exact match" not in card
