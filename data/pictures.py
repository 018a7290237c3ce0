"""From images to texts: small pictures in few colours, a letter for each pixel."""

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from chatformer.pictures import LARGEST_SIDE, text_of_pixels

from .messages import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

NUM_COLOURS = 32
"""Colours of the palette that pictures share: each is two letters of the vocabulary."""


def check_packages(data: str, *packages: str) -> None:
    """Raise a `DataError` that says how to install what `data` needs, unless it is."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise DataError(f"{data}: reading it needs {', '.join(missing)}: pip install 'chatformer[pictures]'.")


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
    palette = palette_of(small)
    return [
        text_of_pixels(np.asarray(image.quantize(palette=palette, dither=Image.Dither.NONE).convert("RGB")))
        for image in small
    ]
