"""The figures of drawn pictures, on pictures that are counted by hand."""

import numpy as np
import pytest

from chatformer.evaluation.pictures import figures_of_drawings, usual_pictures
from chatformer.pictures import text_of_pixels

BLACK, WHITE, GREY = 0, 255, 132


def text(*rows):
    return text_of_pixels(np.repeat(np.array(rows, dtype=np.uint8)[..., None], 3, axis=2))


LEARNT = [text([BLACK, BLACK], [WHITE, WHITE]), text([BLACK, WHITE], [WHITE, WHITE])]
TRUE = [text([GREY, BLACK], [WHITE, WHITE]), text([WHITE, WHITE], [BLACK, BLACK])]


def test_a_perfect_drawing():
    figures = figures_of_drawings(TRUE, TRUE, LEARNT)
    assert (figures.pixel_accuracy, figures.nearest, figures.exact, figures.copied) == (100, 100, 100, 0)


def test_a_copy_is_nearest_to_what_it_copies():
    figures = figures_of_drawings([LEARNT[0], TRUE[1]], TRUE, LEARNT)
    # Three of four pixels of the first, and all of the second.
    assert (figures.pixel_accuracy, figures.nearest, figures.exact, figures.copied) == (87.5, 50, 50, 50)


def test_a_drawing_of_one_colour_is_empty_unless_the_true_one_is():
    white = text([WHITE, WHITE], [WHITE, WHITE])
    figures = figures_of_drawings([white, "no picture", TRUE[0], white], [*TRUE, TRUE[0], white], LEARNT)
    assert figures.empty == 50 and figures.exact == 50


@pytest.mark.parametrize("drawn", ["no picture", text([BLACK]), text([BLACK, BLACK, BLACK], [WHITE] * 3, [BLACK] * 3)])
def test_other_shapes_are_compared_where_they_overlap(drawn):
    figures = figures_of_drawings([drawn], [LEARNT[0]], LEARNT)
    overlap = {"no picture": 0, text([BLACK]): 1}.get(drawn, 4)
    assert figures.pixel_accuracy == 25 * overlap and figures.exact == 0


def test_the_usual_picture_has_the_most_frequent_colour_of_each_place():
    third = text([BLACK, WHITE], [BLACK, WHITE])
    assert usual_pictures([*LEARNT, third])[(2, 2, 3)] == LEARNT[1]
