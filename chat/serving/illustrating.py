"""A reply as a message, with the pictures and the sound that a request asks for."""

import base64
import contextlib
import time
import uuid
from collections.abc import Collection

from chatformer.chat.errors import ChatError
from chatformer.chat.media import data_url, url_of
from chatformer.chat.playing import can_play, score_of, wav_of
from chatformer.pictures import PICTURE
from chatformer.tunes import TUNE

from .protocol import Audio, IllustratedMessage, ImagePart, ImageUrl, ReplyMessage


def message_of(text: str, modalities: Collection[str]) -> ReplyMessage:
    """The reply as a message; a tune that cannot be drawn or played stays text."""
    if not {"image", "audio"} & set(modalities):
        return ReplyMessage(content=text)
    message = IllustratedMessage(content=text)
    tunes = [match[0] for match in TUNE.finditer(text)] if can_play() else []
    if "image" in modalities:
        urls = [data_url(picture) for picture in PICTURE.findall(text)]
        for tune in tunes:
            with contextlib.suppress(ChatError):
                urls.append(url_of("image/svg+xml", score_of(tune)))
        message.images = [ImagePart(image_url=ImageUrl(url=url)) for url in urls]
    if "audio" in modalities and tunes:
        with contextlib.suppress(ChatError):
            data = base64.b64encode(wav_of(tunes[0])).decode()
            message.audio = Audio(
                id=f"audio_{uuid.uuid4().hex}", data=data, expires_at=int(time.time()), transcript=tunes[0]
            )
    return message
