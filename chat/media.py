"""What of a reply is more than text, such as a picture: what kind it is, and what it is saved as."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from chatformer.pictures import PICTURE, can_draw, pixels_of_text, png_of_text
from chatformer.storage.writing import whole_file

from .errors import ChatError


class Medium(Protocol):
    """A part of a reply that people see or hear."""

    text: str
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
        height, width, _ = pixels_of_text(self.text).shape
        return f"[a picture of {width} x {height}]"

    def files(self) -> dict[str, bytes]:
        if not can_draw():
            raise ChatError("a PNG needs Pillow: pip install 'chatformer[pictures]'")
        return {".png": png_of_text(self.text)}


def media_in(reply: str) -> list[Medium]:
    """The media of a reply, in their order; none if it is only text."""
    return [Picture(picture) for picture in PICTURE.findall(reply)]


def in_words(reply: str) -> str:
    """The reply with a description in place of each picture, whose letters no font has."""
    return PICTURE.sub(lambda picture: Picture(picture[0]).description, reply)


class MediaFolder:
    """The folder that media of replies are saved in, as 1.png, 2.png and so on after those that are there."""

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            numbers = [int(file.stem) for file in folder.iterdir() if re.fullmatch(r"[0-9]{1,9}", file.stem)]
        except OSError as error:
            raise ChatError(f"--save-media {folder} is no folder that can be written ({error.strerror}).") from error
        self.last_number = max(numbers, default=0)

    def save(self, reply: str) -> Iterator[Path]:
        """Save the media of a reply; yield each file that was written."""
        for medium in media_in(reply):
            self.last_number += 1
            for suffix, content in medium.files().items():
                path = self.folder / f"{self.last_number}{suffix}"
                with whole_file(path) as partial:
                    partial.write_bytes(content)
                yield path
