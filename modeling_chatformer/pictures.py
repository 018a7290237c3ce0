"""
A picture as text: its rows from top to bottom, each a letter for its number and a letter for each pixel.

A pixel's letter says its colour, five bits each of red, green and blue. The letters are those of Unicode's private use
areas, U+F0000 + colour and U+100000 + number of the row, which no text has. So a text says all of its pictures, beside
words, without another file; the colours that a model draws with are those of its vocabulary. Nothing is lost but what
five bits cannot tell apart. Without the numbers a model, which cannot count far, would draw a row too few or too many.
"""

import io
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

FIRST_COLOUR, FIRST_ROW = 0xF0000, 0x100000
BITS = 5
NUM_COLOURS = 2 ** (3 * BITS)
LARGEST_SIDE = 32
"""The most rows of a picture, and the most pixels of a row that data may have."""

COLOURS = f"{chr(FIRST_COLOUR)}-{chr(FIRST_COLOUR + NUM_COLOURS - 1)}"
NUMBERS = f"{chr(FIRST_ROW)}-{chr(FIRST_ROW + LARGEST_SIDE - 1)}"
ROW = f"[{NUMBERS}][{COLOURS}]*"
"""A pattern of one row, or of the beginning of one."""
PICTURE = re.compile(f"[{NUMBERS}{COLOURS}]+")

BACKGROUND = 255
"""What a picture shows where its text leaves a row out, or incomplete: white."""


def is_number_of_row(letter: str) -> bool:
    """True if a letter of a picture begins a row."""
    return ord(letter) >= FIRST_ROW


def text_of_pixels(pixels_HWC: np.ndarray) -> str:
    """The text of a picture of `uint8` in red, green and blue, (height, width, 3)."""
    levels_HWC = np.rint(pixels_HWC / 255 * (2**BITS - 1)).astype(np.uint32)
    letters_HW = FIRST_COLOUR + ((levels_HWC[..., 0] << 2 * BITS) | (levels_HWC[..., 1] << BITS) | levels_HWC[..., 2])
    numbers_H1 = FIRST_ROW + np.arange(len(letters_HW))[:, None]
    return np.hstack([numbers_H1, letters_HW]).astype("<u4").tobytes().decode("utf-32-le")


def rows_of_text(picture: str) -> list[tuple[int, np.ndarray]]:
    """The rows of a picture's text as they come, each with its number and its pixels, (width, 3) of `uint8`."""
    letters = np.frombuffer(picture.encode("utf-32-le"), dtype="<u4")
    shifts = np.array([2 * BITS, BITS, 0], dtype=np.uint32)
    rows = []
    for row in np.split(letters, np.flatnonzero(letters >= FIRST_ROW)):
        # What comes before the first number is the first row.
        number, colours = (int(row[0]) - FIRST_ROW, row[1:]) if len(row) and row[0] >= FIRST_ROW else (0, row)
        if len(colours):
            levels_WC = (colours[:, None] >> shifts) & (2**BITS - 1)
            rows.append((number, np.rint(levels_WC * (255 / (2**BITS - 1))).astype(np.uint8)))
    return rows


def pixels_of_text(picture: str) -> np.ndarray:
    """
    The pixels of a picture's text, (height, width, 3) of `uint8`.

    A model may leave a row out, or draw rows of several lengths: each row is where its number says, the picture is as
    wide as the most, a shorter row goes on in white, and a longer one is cut.
    """
    rows = rows_of_text(picture)
    # The last row may still be being drawn: it says nothing of the width, unless it is the first.
    complete = [len(row_WC) for _, row_WC in rows[:-1] or rows]
    width = int(np.bincount(complete).argmax()) if complete else 1
    height = 1 + max((number for number, _ in rows), default=0)
    pixels_HWC = np.full((height, width, 3), BACKGROUND, dtype=np.uint8)
    for number, row_WC in rows:
        pixels_HWC[number, : len(row_WC)] = row_WC[:width]
    return pixels_HWC


def in_words(text: str) -> str:
    """The text with a description in place of each picture, whose letters no font has."""

    def described(match: re.Match[str]) -> str:
        height, width, _ = pixels_of_text(match[0]).shape
        return f"[a picture of {width} x {height}]"

    return PICTURE.sub(described, text)


def stand_alone(replies: Iterable[str]) -> bool:
    """True if some replies are pictures, and none has both a picture and words."""
    found = False
    for reply in replies:
        match = PICTURE.search(reply)
        if match is not None:
            if match[0] != reply.strip():
                return False
            found = True
    return found


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
