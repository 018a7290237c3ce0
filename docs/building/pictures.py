"""
The data behind a picture, in short: what two pictures are compared by, since their pixels depend on matplotlib's
version and the fonts of a machine.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from chatformer.evaluation.plots import drawing

Facts = list[Any]

MOST_VALUES = 40
TOLERANCE = 0.02


def facts_of(figure: Any) -> Facts:
    """What each of a figure's axes shows: its texts, and a sample of the numbers of its lines and images."""
    return [
        {
            "texts": [
                axes.get_title(),
                axes.get_xlabel(),
                axes.get_ylabel(),
                *(text.get_text() for text in axes.texts),
            ],
            "lines": [sample(line.get_xydata()) for line in axes.lines],
            "images": [sample(image.get_array()) for image in axes.images],
        }
        for axes in figure.axes
    ]


def sample(values: Any) -> dict[str, Any]:
    """The shape of an array, and values from all over it."""
    array = np.asarray(values, dtype=float)
    places = np.linspace(0, array.size - 1, min(MOST_VALUES, array.size)).astype(int) if array.size else []
    return {"shape": list(array.shape), "values": [float(f"{value:.3g}") for value in array.flatten()[places]]}


def same(one: Any, other: Any) -> bool:
    """True if two pictures show the same, but for small differences of numbers."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float | int) and isinstance(other, float | int):
        return bool(np.isclose(one, other, rtol=TOLERANCE, atol=TOLERANCE))
    return bool(one == other)


@contextlib.contextmanager
def recorded(note: Callable[[Path, Facts], None]) -> Iterator[None]:
    """Call `note` with the data behind each picture that is saved within."""
    save = drawing.save

    def save_and_note(figure: Any, picture: Path) -> None:
        save(figure, picture)
        note(Path(picture), facts_of(figure))

    drawing.save = save_and_note
    try:
        yield
    finally:
        drawing.save = save
