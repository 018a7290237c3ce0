"""The data "tunes": corpora of music21 in one form, wishes for them, and a tokenizer that knows beats."""

from collections import Counter
from random import Random

import pytest

from chatformer.data import melodies, pictures, tunes
from chatformer.data.messages import DataError
from chatformer.data.tokenizer import train_tokenizer
from chatformer.data.wishes import SHORT, Headers, asked_in, in_english, in_korean, some_of
from chatformer.tunes import length_of, tune_of

pytest.importorskip("music21")

JIG = """X:1
T:The Ranting Jig, -- Jig
R: double jig
M:6/8
L:1/8
K:D
A|"D"d2e {g}f>ed|(Bcd) [FA]2.A|d/e/f~g ag^g|!trill!fdd d2:|
|:a|faa f2-f|g=cc c^ce|[1 fed Bcd|ABA A2:|[2 d3 cBA|(3GFE D D2||
"""


def corpus(folder, *files):
    for number, abc in enumerate(files):
        (folder / f"{number}.abc").write_text(abc, "utf-8")
    # Joined to the folder of music21's corpora, an absolute path is itself.
    return {str(folder): "Ireland"}


def test_a_tune_is_a_melody_in_one_line_with_the_notes_of_a_beat_together():
    found = melodies.found_in(JIG, "Ireland")
    assert (found.title, found.rhythm, found.origin) == ("The Ranting Jig", "jig", "Ireland")
    assert found.text == (
        "[M:6/8][L:1/8][K:D] A | d2e f>ed | Bcd A2A | d/e/fg ag^g | fdd d2 :: a | faa f3 | g=c=c =c^ce "
        "|1 fed Bcd | ABA A2 :|2 d3 cBA | (3GFED D2 |]"
    )
    assert all(length_of(bar.notes) == 6 or bar.may_be_short for bar in found.tune.bars())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("M:6/8", "M:7/8"), "metre"),
        (("K:D", "K:none"), "key"),
        (("(Bcd)", "(Bcde)"), "in 6/8"),
        (("(3GFE D", "(5GFEDD"), "tuplet"),
        (("(Bcd)", "(B,,,cd)"), "octave|pitch"),
        (("A|", "[V:1]A|\nM:3/4\n"), "several M"),
    ],
)
def test_what_the_form_has_not_is_left_out(change, reason):
    assert JIG.replace(*change) != JIG
    with pytest.raises(melodies.Unusual, match=reason):
        melodies.found_in(JIG.replace(*change), "")


def test_of_a_corpus_that_names_the_tonic_alone_the_notes_tell_the_mode():
    minor = "X:1\nT:a\nM:3/4\nL:1/8\nK:A\n" + "A2 B2 =c2 | =c2 B2 =G2 | " * 4 + "A6 |]"
    assert melodies.found_in(minor, "", names_tonic_alone=True).text.startswith(
        "[M:3/4][L:1/8][K:Am] A2 B2 c2 | c2 B2 G2"
    )
    assert melodies.found_in(minor, "").tune.key == "A"
    major = minor.replace("=c", "c")
    assert melodies.found_in(major, "", names_tonic_alone=True).text == melodies.found_in(major, "").text
    with pytest.raises(melodies.Unusual, match="key"):
        melodies.found_in(minor.replace("K:A", "K:H"), "", names_tonic_alone=True)
    in_flats = "X:1\nT:a\nM:3/4\nL:1/8\nK:Eb\n" + "E2 F2 _G2 | _G2 F2 _D2 | " * 4 + "E6 |]"
    assert melodies.found_in(in_flats, "", names_tonic_alone=True).text.startswith(
        "[M:3/4][L:1/8][K:Ebm] E2 F2 G2 | G2"
    )


def test_metres_of_two_quarters_are_written_in_sixteenths():
    body = "|".join(["A2Bc d2ef"] * 8)
    assert melodies.found_in(f"X:1\nT:a\nM:2/4\nL:1/16\nK:G\n{body}|]", "").text.startswith(
        "[M:2/4][L:1/16][K:G] A2 Bc d2 ef | A2"
    )
    assert melodies.found_in(f"X:1\nT:a\nM:C|\nL:1/8\nK:G\n{body}|]", "").tune.metre == "2/2"


def test_titles_are_held_out_and_no_tune_is_on_both_sides(tmp_path, monkeypatch):
    def numbered(number, title):
        notes = [f"{'CDEFGAB'[number % 7]}{'CDEFGAB'[number // 7 % 7]}{'cdefgab'[bar]}" for bar in range(7)]
        return f"X:{number}\nT:{title}\nM:3/8\nL:1/8\nK:C\n{'|'.join(notes)}|C3|]\n"

    names = [f"Tune {number}" for number in range(49)]
    held_out = next(name for name in names if tunes.is_held_out(name))
    learnt = next(name for name in names if not tunes.is_held_out(name))
    assert tunes.is_held_out(f"The {held_out.upper()}.")
    files = [numbered(number, name) for number, name in enumerate(names)]
    # The same tune under another title, and another tune under the same one.
    files += [numbered(names.index(held_out), "Another"), numbered(names.index(learnt), held_out)]
    monkeypatch.setattr(tunes, "TUNES", corpus(tmp_path, "\n".join(files)))
    tunes.different_tunes.cache_clear()
    try:
        training = tunes.tunes()
        # music21 takes minutes for a corpus: both sides are of one reading.
        (tmp_path / "0.abc").unlink()
        validation = tunes.tunes(held_out=True)
        wishes = list(tunes.rows(held_out=True))
    finally:
        tunes.different_tunes.cache_clear()
    assert {found.title for found in validation} == {name for name in names if tunes.is_held_out(name)}
    assert {found.title for found in training} == {name for name in names if not tunes.is_held_out(name)}
    assert not {found.text for found in training} & {found.text for found in validation}
    assert len(wishes) == 2 * len(validation) and tune_of(wishes[0]["answer"])


def test_a_rare_rhythm_is_asked_for_as_often_as_it_takes(monkeypatch):
    plain = melodies.found_in("X:1\nT:a\nM:3/4\nL:1/8\nK:C\n" + "C2 E2 G2 | c2 G2 E2 | " * 4 + "C6 |]", "")
    rhythms = ["reel"] * 40 + ["waltz"] * 4 + ["gavotte"]
    found = tuple(plain._replace(title=f"Tune {number}", rhythm=name) for number, name in enumerate(rhythms))
    monkeypatch.setattr(tunes, "tunes", lambda **_: found)
    asked = Counter(asked_in(row["question"]).rhythm for row in tunes.rows(held_out=False))
    wishes = [row["question"] for row in tunes.rows(held_out=False)]
    # Most wishes name the rhythm.
    assert len(wishes) == 2 * (40 * tunes.WISHES + 2 * tunes.FEWEST)
    assert min(asked["waltz"], asked["gavotte"]) > tunes.FEWEST
    assert len(list(tunes.rows(held_out=True))) == 2 * len(found)


@pytest.mark.parametrize("key", ["G", "F#m", "Bb", "Dmix", "Ador"])
@pytest.mark.parametrize("rhythm", ["reel", "slip jig", "air", ""])
def test_a_wish_says_what_can_be_read_out_of_it(key, rhythm):
    headers = Headers("The Waltz in 3/4 of C major", rhythm, key, "9/8", "Scotland")
    for seed in range(5):
        for in_words in (in_korean, in_english):
            assert asked_in(in_words(headers, Random(seed))) == headers._replace(title="")


def test_wishes_in_the_words_of_both_languages():
    headers = Headers("", "waltz", "Bb", "3/4", "")
    assert "B flat major" in in_english(headers, Random(1)) and "a waltz" in in_english(headers, Random(1))
    assert "내림나장조" in in_korean(headers, Random(1)) and "왈츠" in in_korean(headers, Random(1))
    assert asked_in("왈츠 하나 들려줘") == Headers(rhythm="waltz")
    asked = [some_of(headers._replace(title="Mine"), Random(seed)) for seed in range(50)]
    assert any(each.title for each in asked) and not all(each.title for each in asked)


def test_a_fifth_of_the_wishes_says_only_the_rhythm():
    headers = Headers("Mine", "waltz", "Bb", "3/4", "Scotland")
    share = sum(some_of(headers, Random(seed)) == Headers(rhythm="waltz") for seed in range(1000)) / 1000
    assert share == pytest.approx(SHORT, abs=0.06)
    # Of a tune without one it says what there is.
    assert any(some_of(headers._replace(rhythm=""), Random(seed)).key for seed in range(9))


def test_a_beat_is_a_token_and_words_are_what_they_were():
    melody = "[M:6/8][L:1/8][K:D] A | d2e f>ed | =c'/d/e ^G,AB |]"
    tokenizer = train_tokenizer([melody] * 20 + ["A bad cabbage, added. B2B? Dad's bed!"] * 20, 700)
    assert tokenizer.tokenize(melody) == [
        *(" [M:6/8]", "[L:1/8]", "[K:D]", " A", " |", " d2e", " f>ed", " |", " =c'/d/e", " ^G,AB", " |]")
    ]
    assert tokenizer.tokenize("bad cabbage, added") == [" bad", " cabbage", ",", " added"]
    assert tokenizer.decode(tokenizer(melody)["input_ids"], skip_special_tokens=True) == melody


def test_a_missing_package_is_named_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(pictures, "find_spec", lambda package: None)
    with pytest.raises(DataError, match=r"music21: pip install 'chatformer\[music\]'"):
        next(tunes.read_tunes(tunes.TUNES, names_tonic_alone=False))
