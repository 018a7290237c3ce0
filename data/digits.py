"""The data "digits": scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, each asked for in Korean and English."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from chatformer.pictures import text_of_pixels

from .pictures import check_packages

NAMES = (
    ("영", "zero"),
    ("일", "one"),
    ("이", "two"),
    ("삼", "three"),
    ("사", "four"),
    ("오", "five"),
    ("육", "six"),
    ("칠", "seven"),
    ("팔", "eight"),
    ("구", "nine"),
)
"""What each digit is asked for by, in Korean and in English."""

EVERY = 10
"""Of so many digits in a row of the data, one is held out."""

DARKEST = 16
"""The value of a pixel with the most ink."""

STEP = 4
"""Ink is rounded to multiples of it. A classifier reads five greys as well as seventeen; a model learns them sooner."""


class Digit(NamedTuple):
    """A picture of a digit."""

    value: int
    ink_HW: np.ndarray
    """From 0, which is paper, to `DARKEST`."""


def digits(*, held_out: bool) -> list[Digit]:
    """The digits to learn, or those that are held out."""
    check_packages("digits", "sklearn")
    from sklearn.datasets import load_digits

    data = load_digits()
    return [
        Digit(int(value), ink_HW)
        for index, (value, ink_HW) in enumerate(zip(data.target, data.images, strict=True))
        if (index % EVERY == EVERY - 1) == held_out
    ]


def rows(*, held_out: bool) -> Iterator[dict[str, str]]:
    """A caption and a picture for each digit and language."""
    for digit in digits(held_out=held_out):
        ink_HW = STEP * np.rint(digit.ink_HW / STEP)
        grey_HW = np.rint(255 * (1 - ink_HW / DARKEST)).astype(np.uint8)
        picture = text_of_pixels(np.repeat(grey_HW[..., None], 3, axis=2))
        for name in NAMES[digit.value]:
            yield {"caption": name, "picture": picture}


def ink_of(pixels_HWC: np.ndarray) -> np.ndarray:
    """The ink of a picture, as scikit-learn has it, in the steps that `rows` has."""
    return np.rint((1 - pixels_HWC.mean(axis=2) / 255) * DARKEST)
