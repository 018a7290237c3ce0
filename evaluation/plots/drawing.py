"""An empty figure, fonts that have the letters of its texts, and the file of a picture."""

import contextlib
import functools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chatformer.storage.writing import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HANGUL = re.compile(r"[\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3]")
GOOD_FONTS = ("nanumgothic.", "notosanscjk-regular", "notosanskr", "malgun.", "applesdgothicneo", "applegothic")
"""How the files of legible Korean fonts begin; without them, any other font that has Hangul is taken."""

DPI = 150
LONGEST_SIDE = 20
"""The longest side of a picture of cells in inches: 3,000 pixels. What has more cells than fit has smaller ones."""
LABELS = 2.2
"""The inches next to the cells of a picture that the names of tokens, the title and the labels of the axes take."""


class PictureError(ValueError):
    """A picture cannot be drawn: the message says why and what to do."""


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of this size in inches; raise a `PictureError` if matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PictureError("Pictures need matplotlib. Run: pip install 'chatformer[plots]'") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


@contextlib.contextmanager
def fonts_for(texts: Iterable[str]) -> Iterator[None]:
    """Draw, within, with fonts that have the letters of these texts; raise a `PictureError` if Hangul has no font."""
    if not any(map(HANGUL.search, texts)):
        yield
        return
    import matplotlib

    with matplotlib.rc_context({"font.family": ["DejaVu Sans", hangul_font()]}):
        yield


@functools.cache
def hangul_font() -> str:
    """The name of a font on this machine that has Hangul."""
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    # The files themselves: matplotlib's own list does not know fonts that were installed after it was made.
    for file in sorted(font_manager.findSystemFonts(), key=goodness):
        # Some files are of formats that matplotlib cannot read.
        with contextlib.suppress(OSError, RuntimeError):
            font = FT2Font(file)
            if all(map(font.get_char_index, map(ord, "가힣ㅋ"))):
                font_manager.fontManager.addfont(file)
                return font_manager.FontProperties(fname=file).get_name()
    raise PictureError(
        "No font on this machine has Hangul. Install one: `apt install fonts-nanum` on Debian and Ubuntu, `dnf install "
        "google-noto-sans-cjk-fonts` on Fedora, `brew install --cask font-nanum-gothic` on macOS."
    )


def goodness(file: str) -> tuple[int, str]:
    """The place of a font's file among those to try."""
    name = Path(file).name.lower()
    return next((place for place, good in enumerate(GOOD_FONTS) if name.startswith(good)), len(GOOD_FONTS)), file


def name_axes(axes: "Axes", rows: Sequence[str], columns: Sequence[str]) -> None:
    """Name the rows and columns of a picture after tokens, as many as fit, and draw lines between the cells."""
    height, width = size_of_a_cell(axes, len(rows), len(columns))
    # A name takes a fifth more than the size of its letters.
    size = 10 if min(height, width) >= 12 else 7
    every_row, every_column = (max(1, math.ceil(1.2 * size / side)) for side in (height, width))
    axes.set_xticks(
        range(0, len(columns), every_column), map(shown, columns[::every_column]), rotation=90, fontsize=size
    )
    axes.set_yticks(range(0, len(rows), every_row), map(shown, rows[::every_row]), fontsize=size)
    if every_row == every_column == 1:
        axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="lightgrey", linewidth=0.5)
        axes.tick_params(which="minor", length=0)


def size_of_a_cell(axes: "Axes", num_rows: int, num_columns: int) -> tuple[float, float]:
    """About the height and width of a cell in points, from the figure's size and the number of its pictures."""
    figure, place = axes.get_figure(root=True), axes.get_subplotspec()
    assert figure is not None and place is not None
    width, height = figure.get_size_inches()
    pictures_down, pictures_across = place.get_gridspec().get_geometry()
    height = 72 * (height / pictures_down - LABELS) / num_rows
    width = 72 * (width / pictures_across - LABELS) / num_columns
    # Where an aspect is set, cells are squares.
    return (height, width) if axes.get_aspect() == "auto" else (min(height, width),) * 2


def shown(text: str) -> str:
    """A token's text, with its spaces and line ends visible."""
    # matplotlib would read a formula between two dollars.
    return text.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥").replace("$", r"\$")


def check_format(picture: Path) -> None:
    """Raise a `PictureError` unless matplotlib is there and can write a file of this name."""
    formats = new_figure(1, 1).canvas.get_supported_filetypes()
    if format_of(picture) not in formats:
        raise PictureError(
            f"The name of a picture must end with its format, such as .png, .svg or .pdf, but it is {picture}."
        )


def format_of(picture: Path) -> str:
    return picture.suffix.removeprefix(".").lower()


def save(figure: "Figure", picture: Path) -> None:
    """Write a figure, in the format that the file's name ends with, complete or not at all."""
    # The room for names depends on the size of the pictures, and that on the names: the second time both are known.
    figure.draw_without_rendering()
    with whole_file(picture) as partial:
        figure.savefig(partial, dpi=DPI, format=format_of(picture))
