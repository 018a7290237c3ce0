"""Pictures in a terminal, as half blocks in colour: a line of text for two rows, while the reply grows."""

from typing import TYPE_CHECKING

import numpy as np

from chatformer.pictures import BACKGROUND, PICTURE, is_number_of_row, rows_of_text

from .media import parts_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

SHADES = " ░▒▓█"
"""From white to black, where a terminal has no colours."""


class Screen:
    """Prints the pieces of a reply: text at once, and a picture whenever two of its rows are complete."""

    def __init__(self, console: "Console", *, at_start: bool = False):
        """`at_start` is true at the start of a line, where a picture can begin."""
        self.console = console
        self.at_start = at_start
        self.rows = ""
        """What has come of the next two rows of a picture."""

    def write(self, piece: str) -> None:
        """Print what `piece` completes."""
        for part in parts_of(piece):
            if not PICTURE.fullmatch(part):
                self.end_picture()
                self.put(part)
                continue
            for letter in part:
                # The number of the next row shows that those before it are complete.
                if is_number_of_row(letter) and sum(map(is_number_of_row, self.rows)) == 2:
                    self.end_picture()
                self.rows += letter

    def end_picture(self) -> None:
        """Print the rows that have come, complete or not."""
        if self.rows:
            if not self.at_start:
                self.put("\n")
            self.console.print(line_of(self.rows, in_colour=self.console.color_system is not None), soft_wrap=True)
            self.rows, self.at_start = "", True

    def put(self, text: str) -> None:
        print(text, end="", flush=True, file=self.console.file)
        self.at_start = text.endswith("\n")

    def end(self) -> None:
        """Print the rest, and end the line."""
        self.end_picture()
        if not self.at_start:
            self.put("\n")
        self.at_start = False


def line_of(rows: str, *, in_colour: bool) -> "Text":
    """A line of half blocks for two rows of a picture, or for one above nothing."""
    # Here, since a Space has these files, but no terminal and no rich.
    from rich.text import Text

    pixels = [row_WC for _, row_WC in rows_of_text(rows)]
    line = Text()
    for place in range(max(map(len, pixels), default=0)):
        pair = [row_WC[place] if place < len(row_WC) else np.full(3, BACKGROUND) for row_WC in pixels]
        upper_C, lower_C = pair[0], pair[1] if len(pair) > 1 else None
        if in_colour:
            below = "default" if lower_C is None else colour_of(lower_C)
            line.append("▀", f"{colour_of(upper_C)} on {below}")
        else:
            both = [upper_C] if lower_C is None else [upper_C, lower_C]
            ink = 1 - sum(float(pixel_C.mean()) for pixel_C in both) / 255 / len(both)
            line.append(SHADES[round(ink * (len(SHADES) - 1))])
    return line


def colour_of(pixel_C: np.ndarray) -> str:
    return "#{:02x}{:02x}{:02x}".format(*pixel_C)
