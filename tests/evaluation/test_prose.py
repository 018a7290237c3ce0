"""The figures of prose, on texts whose figures are known."""

import dataclasses
import random

import pytest

from chatformer.evaluation.figures import Evaluation, distinct
from chatformer.evaluation.prose import (
    copied,
    first_words,
    grams,
    prose_figures,
    repeated,
    self_bleu,
    told_apart,
    without_references,
)

WORDS = ["the", "a", "old", "devil", "fire", "sin", "love", "king", "queen", "night", "day", "sword", "crown", "heart"]


def texts(seed, count=40, words=WORDS, length=30):
    chance = random.Random(seed)
    return [" ".join(chance.choices(words, k=length)) for _ in range(count)]


def test_repeated_runs():
    # Of the seven runs of four words, "a b c d" and "b c d e" come again.
    assert repeated(["a b c d e a b c d e"]) == pytest.approx(100 * 2 / 7)
    # What another text has is no repetition.
    assert repeated(["a b c d", "a b c d"]) == 0
    assert repeated(["a b c"]) is None


def test_copied_runs():
    book = "one two three four five six seven eight nine ten"
    learnt = grams([book])
    assert copied([book], learnt) == 100
    assert copied(["zero " + book], learnt) == 75
    assert copied([book.replace("five", "5")], learnt) == 0
    assert copied(["one two"], learnt) is None


def test_varied_texts_have_a_lower_self_bleu():
    varied, alike = texts(1), texts(1, words=WORDS[:3])
    assert self_bleu(varied) < self_bleu(alike) < self_bleu(["the same words again"] * 5) + 1e-6
    assert self_bleu(["the same words again"] * 5) == pytest.approx(100)
    assert self_bleu(["alone"]) is None


def test_texts_of_one_kind_are_not_told_apart_and_others_are():
    real = texts(1, count=60)
    assert 30 < told_apart(real, texts(2, count=60)) < 70
    # The same words but for one in ten, and of another length, which does not count.
    odd = [text.replace("the", "teh") for text in texts(3, count=60, length=40)]
    assert told_apart(real, odd) > 85
    assert told_apart(real[:5], odd) is None
    # A young model may write nothing.
    assert told_apart([""] * 60, real) is None
    assert told_apart(["", *real], [*odd, odd[0]]) > 85


def test_lengths_do_not_tell_texts_apart():
    assert told_apart(texts(1, count=60, length=10), texts(2, count=60, length=60)) < 70


def test_distinct_runs_are_of_as_many_words():
    few, many = texts(1, count=5), texts(1, count=50)
    assert first_words(many, 12)[:2] == [" ".join(many[0].split()[:12]), ""]
    assert distinct(first_words(many, 150), 1) == distinct(few, 1) != distinct(many, 1)
    figures = [prose_figures(each, None, None, num_words=150) for each in (few, many)]
    assert figures[0].distinct_3 == figures[1].distinct_3
    assert figures[0].told_apart is figures[0].copied_8_grams is None


def test_an_evaluation_without_references_keeps_what_needs_none():
    values = {field.name: 1.0 for field in dataclasses.fields(Evaluation)}
    found = without_references(Evaluation(**values))
    assert found.exact_match is found.chrf is found.bleu is found.score is None
    assert found.bits_per_character == found.distinct_2 == 1.0
