"""What of a reply is more than text, a picture or a tune: what kind it is, and what it is saved as."""

import base64
import html
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from chatformer.pictures import PICTURE, can_draw, in_words, pixels_of_text, png_of_text
from chatformer.storage.writing import whole_file
from chatformer.tunes import TUNE, abc_of, tune_of

from .errors import ChatError
from .playing import can_play, check_can_play, score_of, wav_of

logger = logging.getLogger(__name__)


class Medium(Protocol):
    """A part of a reply that people see or hear."""

    @property
    def text(self) -> str:
        """The part, as the model wrote it."""

    @property
    def description(self) -> str:
        """What it is, for where only words can be shown."""

    def files(self) -> dict[str, bytes]:
        """What it is saved as: the content of each file, by the ending of its name; a `ChatError` says what lacks."""


@dataclass(frozen=True)
class Picture:
    """A picture, saved as PNG."""

    text: str

    @property
    def description(self) -> str:
        return in_words(self.text)

    def files(self) -> dict[str, bytes]:
        if not can_draw():
            raise ChatError("a PNG needs Pillow: pip install 'chatformer[pictures]'")
        return {".png": png_of_text(self.text)}


@dataclass(frozen=True)
class Melody:
    """A tune, saved as ABC, as sound and as its score."""

    text: str

    @property
    def description(self) -> str:
        tune = tune_of(self.text)
        assert tune is not None
        return f"[a tune of {sum(1 for _ in tune.bars())} bars in {tune.key}, {tune.metre}]"

    def files(self) -> dict[str, bytes]:
        check_can_play()
        made = {".abc": abc_of(self.text).encode()}
        for suffix, content in ((".wav", wav_of), (".svg", score_of)):
            try:
                made[suffix] = content(self.text)
            except ChatError as error:
                # A model may write what cannot be played, and the text is still worth keeping.
                logger.warning("%s", error)
        return made


def media_in(reply: str) -> list[Medium]:
    """The media of a reply, in their order; none if it is only text."""
    found: list[tuple[int, Medium]] = [(match.start(), Picture(match[0])) for match in PICTURE.finditer(reply)]
    found += [(match.start(), Melody(match[0])) for match in TUNE.finditer(reply)]
    return [medium for _, medium in sorted(found, key=lambda place: place[0])]


def as_html(text: str, *, is_growing: bool = False) -> str:
    """
    A text as HTML that shows it as it is, with its pictures, and below it the sound and the score of its tunes.

    Without Pillow, pictures are described; without the packages of `chatformer[music]`, tunes stay text, as they do
    while they are growing.
    """
    if can_draw():
        shown = "".join(
            picture_as_html(part) if PICTURE.fullmatch(part) else html.escape(part, quote=False)
            for part in parts_of(text)
        )
    else:
        shown = html.escape(in_words(text), quote=False)
    tunes = [] if is_growing or not can_play() else TUNE.finditer(text)
    return "".join([shown, *(tune_as_html(match[0]) for match in tunes)])


def tune_as_html(tune: str) -> str:
    try:
        audio = f'<br><audio controls src="{url_of("audio/wav", wav_of(tune))}"></audio>'
        return f'{audio}<br><img src="{url_of("image/svg+xml", score_of(tune))}" alt="{Melody(tune).description}">'
    except ChatError as error:
        return f"<br>{html.escape(str(error), quote=False)}"


def picture_as_html(picture: str) -> str:
    height, width, _ = pixels_of_text(picture).shape
    # As large as its pixels, so that a picture that grows, row by row, grows in its place.
    return f'<img src="{data_url(picture)}" alt="{in_words(picture)}" width="{8 * width}" height="{8 * height}">'


def data_url(picture: str) -> str:
    """A picture's PNG as a URL that holds it."""
    return url_of("image/png", png_of_text(picture))


def url_of(kind: str, content: bytes) -> str:
    """A URL that holds the content."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def parts_of(text: str) -> list[str]:
    """The text, taken apart where a picture begins and ends."""
    parts, start = [], 0
    for match in PICTURE.finditer(text):
        parts += [text[start : match.start()], match[0]]
        start = match.end()
    return [part for part in (*parts, text[start:]) if part]


class MediaFolder:
    """The folder that media of replies are saved in, as 1.png, 2.wav and so on after those that are there."""

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            numbers = [int(file.stem) for file in folder.iterdir() if re.fullmatch(r"[0-9]{1,9}", file.stem)]
        except OSError as error:
            raise ChatError(f"--save-media {folder} is no folder that can be written ({error.strerror}).") from error
        self.last_number = max(numbers, default=0)

    def save(self, reply: str) -> list[Path]:
        """Save the media of a reply; return the files that were written."""
        saved = []
        for medium in media_in(reply):
            self.last_number += 1
            for suffix, content in medium.files().items():
                path = self.folder / f"{self.last_number}{suffix}"
                try:
                    with whole_file(path) as partial:
                        partial.write_bytes(content)
                except OSError as error:
                    raise ChatError(f"--save-media: {path} cannot be written ({error.strerror}).") from error
                saved.append(path)
        return saved
