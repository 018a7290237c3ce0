"""From images to texts: small pictures in few colours, a letter for each pixel."""

import dataclasses
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chatformer.pictures import LARGEST_SIDE, PICTURE, text_of_pixels

from .messages import DataError
from .rows import Row

if TYPE_CHECKING:
    from PIL.Image import Image

NUM_COLOURS = 32
"""Colours of the palette that pictures share: each is two letters of the vocabulary."""


def check_packages(data: str, *packages: str, extra: str = "pictures") -> None:
    """Raise a `DataError` that says how to install what `data` needs, unless it is."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise DataError(f"{data}: reading it needs {', '.join(missing)}: pip install 'chatformer[{extra}]'.")


def small_image(image: "Image") -> "Image":
    """The image upon white, made smaller if a side is longer than the longest that a picture may have."""
    from PIL import Image

    image = image.convert("RGBA")
    upon_white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    upon_white.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.BOX)
    return upon_white


def palette_of(images: Sequence["Image"]) -> "Image":
    """The colours that serve the images best, at most `NUM_COLOURS`, as an image with a palette."""
    from PIL import Image

    pixels_NC = np.concatenate([np.asarray(image).reshape(-1, 3) for image in images])
    return Image.fromarray(pixels_NC[None]).quantize(NUM_COLOURS, Image.Quantize.MEDIANCUT, kmeans=1)


def texts_of_images(images: Iterable["Image"]) -> list[str]:
    """The text of each image, which share a palette that Pillow chooses."""
    from PIL import Image

    small = [small_image(image) for image in images]
    if not small:
        return []
    palette = palette_of(small)
    return [
        text_of_pixels(np.asarray(image.quantize(palette=palette, dither=Image.Dither.NONE).convert("RGB")))
        for image in small
    ]


def rows_with_pictures(rows: Sequence[Row], column: str, folder: Path) -> list[Row]:
    """The rows with the text of each picture in place of its file's name, which is relative to `folder`."""
    check_packages(f"the column {column}", "PIL")
    opened = [None if row.problem else opened_picture(row.fields.get(column), folder) for row in rows]
    texts = iter(texts_of_images([found for found in opened if found is not None and not isinstance(found, str)]))
    made = []
    for row, found in zip(rows, opened, strict=True):
        if isinstance(found, str) and not PICTURE.fullmatch(found):
            made.append(dataclasses.replace(row, fields={}, problem=f"the {column} {found}"))
        elif found is not None:
            made.append(
                dataclasses.replace(
                    row, fields={**row.fields, column: found if isinstance(found, str) else next(texts)}
                )
            )
        else:
            made.append(row)
    return made


def opened_picture(value: Any, folder: Path) -> "Image | str":
    """The image of a file; or the text of a picture as it is; or what is wrong."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(value, str) and PICTURE.fullmatch(value.strip()):
        return value.strip()
    if not isinstance(value, str) or not value.strip():
        return "is missing"
    path = folder / value.strip()
    try:
        with Image.open(path) as image:
            return image.convert("RGBA")
    except FileNotFoundError:
        return f"{value} is no file in {folder}"
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        return f"{value} is no picture that Pillow can read ({error})"
