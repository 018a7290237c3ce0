"""A tune as text: its bars, their lengths, and its notes, compared with music21."""

from fractions import Fraction

import pytest

from chatformer.tunes import TUNE, abc_of, length_of, steps_of, tune_of

JIG = "[M:6/8][L:1/8][K:Ador] e |: A2B c>Bc | E^F=F c2A |1 B2G (3AFDE | G3 BAG :|2 =G2^G A_BA | A3 A2 |]"


@pytest.mark.parametrize(
    ("notes", "length"),
    [
        ("GABc", 4),
        ("G2 A3/2B/ c/4", Fraction(17, 4)),
        ("A>B c<d", 4),
        ("A2>B2", 4),
        ("(3ABc d", 3),
        ("(3A2B2c2 z", 5),
        ("^f _B, =c'4 __d", 7),
    ],
)
def test_the_length_of_notes(notes, length):
    assert length_of(notes) == length


def test_bars_lie_between_bar_lines_and_may_be_short_where_parts_begin_and_end():
    tune = tune_of(JIG)
    assert (tune.metre, tune.unit, tune.key, tune.bar_length) == ("6/8", Fraction(1, 8), "Ador", 6)
    bars = list(tune.bars())
    assert [bar.notes for bar in bars][:2] == ["e", "A2B c>Bc"]
    assert [length_of(bar.notes) for bar in bars] == [1, 6, 6, 6, 6, 6, 5]
    assert [bar.may_be_short for bar in bars] == [True, True, True, True, True, True, True]
    assert [bar.may_be_short for bar in tune_of("[M:4/4][L:1/8][K:C] c8 | c8 | c4 | c8 |]").bars()] == [
        *(True, False, False, True)
    ]


@pytest.mark.parametrize(
    "text",
    ["Hello!", "[M:6/8][L:1/8] ABC |]", "[M:6/8][L:1/8][K:H] ABC |]", "[M:6/8][L:1/8][K:G] ABC hello |]", "A2 B2 |"],
)
def test_what_is_no_tune(text):
    assert tune_of(text) is None


def test_a_tune_is_found_among_words():
    assert [match[0] for match in TUNE.finditer(f"여기요: {JIG} 좋죠?")] == [JIG]


def test_the_file_of_a_tune_has_a_line_for_each_field():
    lines = abc_of("[M:3/4][L:1/8][K:G] G2 B2 d2 |]", "A Waltz").split("\n")
    assert lines == ["%abc-2.1", "X:1", "T:A Waltz", "M:3/4", "L:1/8", "K:G", "G2 B2 d2 |]", ""]


@pytest.mark.parametrize("key", ["C", "G", "Bb", "F#m", "Am", "Dmix", "Ebdor", "Aphr", "Flyd"])
def test_notes_are_those_that_music21_reads(key):
    abc_format = pytest.importorskip("music21.abcFormat")
    from music21.pitch import Pitch

    text = f"[M:6/8][L:1/8][K:{key}] CDE FGA | B^cc d_ee | =ffB, ^C2D |]"
    handler = abc_format.ABCHandler()
    handler.process(abc_of(text))
    names = [token.pitchName for token in handler.tokens if isinstance(token, abc_format.ABCNote)]
    tonic = Pitch(key.rstrip("mixdorphly").replace("b", "-")).midi
    assert steps_of(tune_of(text)) == [(Pitch(name).midi - tonic) % 12 for name in names]
