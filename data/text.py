"""From bytes to text: which encoding a file has, Korean ones included, and where it is broken."""

import codecs
import difflib
import encodings.aliases
import logging
import re

from .messages import DataError

logger = logging.getLogger(__name__)

_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_ISO2022_KR_ANNOUNCEMENT = b"\x1b$)C"
_UNDECODABLE = re.compile("[\udc00-\udcff]")
_MOST_UNDECODABLE_UTF_8 = 0.5
_MOST_UNDECODABLE_KOREAN = 0.2


def _mark_undecodable(error: UnicodeError) -> tuple[str, int]:
    # Like surrogateescape, but for bytes below 0x80 too, which can be undecodable in encodings of several bytes.
    assert isinstance(error, UnicodeDecodeError)
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error("chatformer.mark", _mark_undecodable)


def _undecodable_share(data: bytes, encoding: str) -> float:
    text = data.decode(encoding, "chatformer.mark")
    return len(_UNDECODABLE.findall(text)) / sum(character > "\x7f" for character in text)


def _find_encoding(file: str, data: bytes) -> str:
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            return encoding
    # Its bytes have seven bits, so they are valid UTF-8 too: this check must come first.
    if _ISO2022_KR_ANNOUNCEMENT in data:
        logger.warning("%s: read as iso2022_kr. Pass --encoding if it is something else.", file)
        return "iso2022_kr"
    try:
        data.decode("utf-8")
        return "utf-8"
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
    if _undecodable_share(data, "utf-8") < _MOST_UNDECODABLE_UTF_8:
        return "utf-8"

    from charset_normalizer import from_bytes

    korean = ["cp949", "johab"]
    best = from_bytes(data, cp_isolation=korean).best()
    # It rejects a text for one broken byte; such a text still has an encoding, and one broken row.
    likeliest = best.encoding if best else min(korean, key=lambda encoding: _undecodable_share(data, encoding))
    if _undecodable_share(data, likeliest) > _MOST_UNDECODABLE_KOREAN:
        raise DataError(
            f"{file}, row {row}: the text is not UTF-8, nor any Korean encoding. "
            "Save it as UTF-8, or pass --encoding with the name of its encoding."
        )
    logger.warning("%s: not UTF-8, read as %s. Pass --encoding if it is something else.", file, likeliest)
    return likeliest


def decode(file: str, data: bytes, encoding: str | None) -> tuple[str, str]:
    """The text, in which a lone surrogate, U+DC00 + byte, marks an undecodable byte, and the encoding used."""
    advice = "Save it as text in UTF-8; if it is UTF-16 without a byte order mark, pass --encoding utf-16-le."
    if encoding is None:
        if b"\0" in data and not data.startswith(tuple(_BYTE_ORDER_MARKS)):
            row = data.count(b"\n", 0, data.index(0)) + 1
            raise DataError(f"{file}, row {row}: a NUL byte, which text does not have. {advice}")
        encoding = _find_encoding(file, data)
    try:
        text = data.decode(encoding, "chatformer.mark").removeprefix("\ufeff")
    except LookupError as error:
        nearest = difflib.get_close_matches(encoding, encodings.aliases.aliases, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise DataError(
            f"{file}: there is no text encoding {encoding!r}.{hint} Korean ones are utf-8, cp949, johab, iso2022_kr."
        ) from error
    except UnicodeError as error:
        raise DataError(f"{file} cannot be read as {encoding} ({error}). Pass another --encoding.") from error
    if "\0" in text:
        row = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{file}, row {row}: a NUL character, when it is read as {encoding}. {advice}")
    return text, encoding


def undecodable(text: str, encoding: str) -> str | None:
    """What is wrong with a decoded text, or None."""
    match = _UNDECODABLE.search(text)
    return f"the byte 0x{ord(match[0]) - 0xDC00:02X} is not {encoding}" if match else None
