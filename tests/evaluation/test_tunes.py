"""The figures of tunes, on tunes that are counted by hand."""

import pytest

from chatformer.data.wishes import Headers
from chatformer.evaluation.tunes import RhythmJudge, figures_of_tunes, longest_copy, other_steps
from chatformer.tunes import tune_of

REAL = "[M:4/4][L:1/8][K:G] GA | GA Bc d4 | d2 B2 G4 | A2 F2 D4 | G6 |]"
SHORT_BAR = "[M:4/4][L:1/8][K:G] GA Bc d4 | d2 B2 G2 | A2 F2 D4 | G8 |]"
OTHER = "[M:3/4][L:1/8][K:D] d2 f2 a2 | a6 | f6 | d6 |]"


def figures(*texts, wishes=None, **options):
    return figures_of_tunes(texts, wishes or [Headers()] * len(texts), [REAL] * len(texts), **options)


def test_a_real_tune_is_right_and_its_upbeat_is_not_a_complete_bar():
    found = figures(REAL, wishes=[Headers(metre="4/4", key="G")])
    assert (found.parsed, found.right_bars, found.complete_bars) == (100, 100, 60)
    assert (found.metre_obeyed, found.key_obeyed, found.ends_on_tonic, found.other_steps) == (100, 100, 100, 0)


def test_a_bar_within_a_part_must_be_complete():
    assert figures(SHORT_BAR).right_bars == 75


def test_bars_are_as_long_as_the_metre_that_was_asked_for():
    found = figures(OTHER, REAL, wishes=[Headers(metre="4/4", key="G"), Headers()])
    # A shorter bar is an upbeat at the ends: of the first tune the outer two.
    assert (found.metre_obeyed, found.key_obeyed) == (0, 0)
    assert found.complete_bars == pytest.approx(100 * 3 / 9) and found.right_bars == pytest.approx(100 * 7 / 9)


@pytest.mark.parametrize("text", ["no tune", REAL.removesuffix(" |]"), f"{REAL} la la"])
def test_what_cannot_be_read_has_no_right_bar(text):
    found = figures(text, REAL, wishes=[Headers(metre="4/4"), Headers(metre="4/4")])
    assert (found.parsed, found.right_bars, found.metre_obeyed) == (50, 50, 50)


def test_the_longest_copy_is_a_run_of_beats_of_one_tune():
    known = " GA GA Bc d4 \n d2 B2 G4 A2 "
    # GA GA Bc d4 of eleven beats; the next three are in another tune.
    assert longest_copy(REAL, known) == pytest.approx(100 * 4 / 11)
    assert longest_copy("[M:4/4][L:1/8][K:G] A8 |]", known) == 0


def test_steps_are_compared_by_how_frequent_they_are():
    one, other = tune_of("[M:2/4][L:1/16][K:G] G4 A4 |]"), tune_of("[M:2/4][L:1/16][K:D] d4 f4 |]")
    assert other_steps([one], [one]) == 0 and other_steps([one], [other]) == 50
    assert other_steps([], [one]) is None


def test_a_judge_tells_rhythms_by_metre_and_lengths():
    learnt = []
    for number in range(20):
        notes = "GABcdefgab"[number % 10] + "GABcdefgab"[number // 10]
        learnt.append(("a reel", f"[M:4/4][L:1/8][K:G] {notes} Bc dB GB | {notes} AB G4 |]"))
        learnt.append(("지그 하나 들려줘", f"[M:6/8][L:1/8][K:G] {notes}d BGB | {notes}F G3 |]"))
    judge = RhythmJudge.trained(learnt)
    wishes = [Headers(rhythm=name) for name in ("reel", "jig", "jig", "waltz")]
    texts = ["[M:4/4][L:1/8][K:D] dc BA Bd ef |]", "[M:6/8][L:1/8][K:D] def afd |]", learnt[0][1], REAL]
    # The third is a reel, and of waltzes the judge knows nothing.
    assert judge.share_recognised(texts, wishes) == pytest.approx(100 * 2 / 3)
    assert RhythmJudge.trained(learnt[:1]) is None
