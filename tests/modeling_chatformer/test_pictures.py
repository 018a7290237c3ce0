"""Pictures as text."""

import numpy as np
import pytest

from chatformer.conversation import normalized_text
from chatformer.data.tokenizer import train_tokenizer
from chatformer.pictures import (
    FIRST_COLOUR,
    PICTURE,
    image_of_text,
    is_number_of_row,
    pixels_of_text,
    text_of_pixels,
)


@pytest.fixture(scope="module")
def pixels():
    """Return a picture of 5 x 7 whose colours five bits tell apart, black and white among them."""
    levels = np.random.default_rng(0).integers(0, 32, (5, 7, 3))
    levels[0, 0], levels[0, 1] = 0, 31
    return np.rint(levels * (255 / 31)).astype(np.uint8)


def test_a_picture_is_what_its_text_says(pixels):
    text = text_of_pixels(pixels)
    assert len(text) == 35 + 5 and (pixels_of_text(text) == pixels).all()
    assert sum(map(is_number_of_row, text)) == 5
    assert (np.asarray(image_of_text(text, scale=2))[::2, 1::2] == pixels).all()


def test_colours_come_back_as_near_as_five_bits_allow():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    assert np.abs(pixels_of_text(text_of_pixels(ramp)).astype(int) - ramp).max() <= 255 / 31 / 2 + 0.5


def rows_of(pixels):
    """The text of each row, in a picture."""
    text = text_of_pixels(pixels)
    length = 1 + pixels.shape[1]
    return [text[first : first + length] for first in range(0, len(text), length)]


def test_a_picture_is_as_wide_as_most_of_its_rows(pixels):
    rows = rows_of(pixels)
    # The second lacks two pixels, the third has two more, the last is still being drawn.
    drawn = pixels_of_text(rows[0] + rows[1][:-2] + rows[2] + rows[2][-2:] + rows[3] + rows[4][:4])
    assert drawn.shape == pixels.shape
    assert (drawn[[0, 2, 3]] == pixels[[0, 2, 3]]).all() and (drawn[1, :5] == pixels[1, :5]).all()
    assert (drawn[1, 5:] == 255).all() and (drawn[4, 3:] == 255).all()


def test_a_row_is_where_its_number_says(pixels):
    rows = rows_of(pixels)
    # The third is left out, the second is drawn twice, and the number of the last one is all there is of it.
    drawn = pixels_of_text(rows[0] + rows[0][0] + rows[1] + rows[1] + rows[3] + rows[4][0])
    assert drawn.shape == (4, 7, 3)
    assert (drawn[[0, 1, 3]] == pixels[[0, 1, 3]]).all() and (drawn[2] == 255).all()
    assert pixels_of_text(rows[4][0]).shape == (1, 1, 3)
    # Without any number, there is one row.
    assert (pixels_of_text(rows[2][1:]) == pixels[2]).all()


def test_it_stands_among_words_and_no_door_changes_it(pixels):
    picture = text_of_pixels(pixels)
    text = f"  여기요:\t{picture} 좋죠?\r\n{picture}"
    assert PICTURE.findall(normalized_text(text)) == [picture, picture]
    assert normalized_text(picture) == picture


def test_rows_are_words_and_frequent_rows_become_tokens(pixels):
    picture, words = text_of_pixels(pixels), "그려 줘 draw it"
    tokenizer = train_tokenizer([words, picture, f"{words} {picture}"] * 3, 700)
    for text in (picture, f"{words} {picture}", f"{picture}{words}", picture + chr(FIRST_COLOUR), words):
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    rows = rows_of(pixels)
    tokens = [token for row in rows for token in (row[0], row[1:])]
    # A space before it, as before every text, and the end.
    assert tokenizer.tokenize(picture) == [" ", *tokens]
    # So the upper part of a picture is the same tokens as in the complete one.
    assert tokenizer.tokenize("".join(rows[:3])) == [" ", *tokens[:6]]
