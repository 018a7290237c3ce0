"""
A picture as text: its rows from top to bottom, a letter for each pixel.

A letter says its colour, five bits each of red, green and blue, and whether it ends a row. The letters are those of
Unicode's private use areas, U+F0000 + colour and U+100000 + colour at the end of a row, which no text has. So a text
says all of its pictures, beside words, without another file; the colours that a model draws with are those of its
vocabulary. Nothing is lost but what five bits cannot tell apart.
"""

import io
import re
from typing import Any

import numpy as np

WITHIN_ROW, END_OF_ROW = 0xF0000, 0x100000
BITS = 5
NUM_COLOURS = 2 ** (3 * BITS)
LARGEST_SIDE = 32
"""The widest row, and most rows, that data may have."""

WITHIN = f"{chr(WITHIN_ROW)}-{chr(WITHIN_ROW + NUM_COLOURS - 1)}"
ENDS = f"{chr(END_OF_ROW)}-{chr(END_OF_ROW + NUM_COLOURS - 1)}"
ROW = f"[{WITHIN}]*[{ENDS}]|[{WITHIN}]+"
"""A pattern of one row, or of the beginning of one."""
PICTURE = re.compile(f"[{WITHIN}{ENDS}]+")

BACKGROUND = 255
"""What a picture shows where its text leaves a row incomplete: white."""


def text_of_pixels(pixels_HWC: np.ndarray) -> str:
    """The text of a picture of `uint8` in red, green and blue, (height, width, 3)."""
    levels_HWC = np.rint(pixels_HWC / 255 * (2**BITS - 1)).astype(np.uint32)
    letters_HW = WITHIN_ROW + ((levels_HWC[..., 0] << 2 * BITS) | (levels_HWC[..., 1] << BITS) | levels_HWC[..., 2])
    letters_HW[:, -1] += END_OF_ROW - WITHIN_ROW
    return letters_HW.astype("<u4").tobytes().decode("utf-32-le")


def pixels_of_text(picture: str) -> np.ndarray:
    """
    The pixels of a picture's text, (height, width, 3) of `uint8`.

    A model may draw rows of several lengths: the picture is as wide as the most, a shorter row goes on in white, and a
    longer one is cut.
    """
    letters = np.frombuffer(picture.encode("utf-32-le"), dtype="<u4")
    ends = np.flatnonzero(letters >= END_OF_ROW)
    rows = [row for row in np.split(letters, ends + 1) if len(row)]
    # A row that is still being drawn says nothing of the width, unless it is the first.
    complete = [len(row) for row in rows if row[-1] >= END_OF_ROW] or [len(rows[0])]
    width = int(np.bincount(complete).argmax())
    pixels_HWC = np.full((len(rows), width, 3), BACKGROUND, dtype=np.uint8)
    shifts = np.array([2 * BITS, BITS, 0], dtype=np.uint32)
    for pixels_WC, row in zip(pixels_HWC, rows, strict=True):
        levels_WC = (row[:width, None] >> shifts) & (2**BITS - 1)
        pixels_WC[: len(levels_WC)] = np.rint(levels_WC * (255 / (2**BITS - 1)))
    return pixels_HWC


def in_words(text: str) -> str:
    """The text with a description in place of each picture, whose letters no font has."""

    def described(match: re.Match[str]) -> str:
        height, width, _ = pixels_of_text(match[0]).shape
        return f"[a picture of {width} x {height}]"

    return PICTURE.sub(described, text)


def can_draw() -> bool:
    """True if Pillow is installed, which the extra `chatformer[pictures]` brings."""
    # transformers takes a second to load, and the letters need nothing of it.
    from transformers.utils import is_vision_available

    return bool(is_vision_available())


def image_of_text(picture: str, scale: int = 1) -> Any:
    """The picture of its text as a PIL image, each pixel as a square of `scale` pixels."""
    # In a try, so that transformers does not ask for Pillow before it loads a model from the Hub that talks.
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("A picture needs Pillow: pip install 'chatformer[pictures]'") from error

    return Image.fromarray(pixels_of_text(picture).repeat(scale, axis=0).repeat(scale, axis=1))


def png_of_text(picture: str, scale: int = 8) -> bytes:
    """The picture of its text as a file."""
    file = io.BytesIO()
    image_of_text(picture, scale).save(file, format="PNG")
    return file.getvalue()
