import math

import pytest

from chatformer.evaluation.doctor.findings import Above, Below, Check


@pytest.mark.parametrize(
    ("bounds", "value", "severity"),
    [
        (Above(hint=0.1, problem=0.5), 0.1, "good"),
        (Above(hint=0.1, problem=0.5), 0.5, "hint"),
        (Above(hint=0.1, problem=0.5), 0.51, "problem"),
        (Above(hint=0), True, "hint"),
        (Above(problem=0), True, "problem"),
        (Above(problem=0), False, "good"),
        (Below(hint=90, problem=50), 90, "good"),
        (Below(hint=90, problem=50), 50, "hint"),
        (Below(hint=90, problem=50), 49, "problem"),
        (Below(hint=5), 0, "hint"),
        # A figure that is no number is nothing to be content with.
        (Above(hint=0.1), math.nan, "problem"),
        (Below(hint=0.1), math.nan, "problem"),
    ],
)
def test_bounds_belong_to_the_milder_side(bounds, value, severity):
    assert bounds.severity(value) == severity


def test_a_check_says_what_fits_its_value():
    check = Check(
        name="x", bad=Above(hint=1, problem=2), good="Fine", title="Ill", problem="Dying", why="Why.", what_to_do="Do."
    )
    (good,) = check.findings(1, "Found.", examples=[1])
    assert (good.check, good.severity, good.title, good.found) == ("x", "good", "Fine", "Found.")
    assert not good.what_to_do and not good.examples
    (hint,) = check.findings(2, "Found.", found_if_good="Not this.", examples=range(9))
    assert (hint.severity, hint.title, hint.found, hint.what_to_do) == ("hint", "Ill", "Found. Why.", "Do.")
    assert hint.examples == ("0", "1", "2")
    (problem,) = check.findings(3, what_to_do="Rest.")
    assert (problem.title, problem.found, problem.what_to_do) == ("Dying", "Why.", "Rest.")
    assert Check(name="x", bad=Above(hint=1), title="Ill").findings(1) == []
