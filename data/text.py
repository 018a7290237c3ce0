"""From bytes to text: which encoding a file has, if it is clear, and where it is broken."""

import codecs
import contextlib
import encodings.aliases
import logging
import re

from chatformer.configuration.declaring import did_you_mean

from .messages import DataError

logger = logging.getLogger(__name__)

# Those of UTF-32 first: that of its little-endian form begins as that of UTF-16 does.
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_ESCAPE_SEQUENCES = {b"\x1b$)C": "iso2022_kr", b"\x1b$B": "iso2022_jp", b"\x1b$@": "iso2022_jp"}
"""The bytes with which encodings of seven bits change to another character set."""
_UNDECODABLE = re.compile("[\udc00-\udcff]")
_MOST_UNDECODABLE_UTF_8 = 0.5

_COMMON_SYLLABLES = frozenset(
    "이다는의에가고하을지도로기한사어리나를자은대아해서시그인보정게들수일있라요만부주장과니제여면거전구상세좋네안까데마랑예"
    "겠람생무같할남친연말내봐죠없음싶각오"
)
"""Syllables that make up half of the letters of Korean text on any subject."""
_LEAST_COMMON_SYLLABLES = 0.25
"""Their least share in Korean text: two lines of it have 0.37, and one line of anything else has at most 0.14."""
_BYTES_JUDGED = 1_000_000

_POSSIBLE_ENCODINGS = ("cp949", "johab", "cp1252", "euc_jp", "shift_jis", "gb18030", "big5", "cp1251")
"""The encodings in which a line is shown if the encoding is not clear."""
_CHARACTERS_SHOWN = 30


def _mark_undecodable(error: UnicodeError) -> tuple[str, int]:
    # Like surrogateescape, but for bytes below 0x80 too, which can be undecodable in encodings of several bytes.
    assert isinstance(error, UnicodeDecodeError)
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error("chatformer.mark", _mark_undecodable)


def _undecodable_share(data: bytes, encoding: str) -> float:
    text = data.decode(encoding, "chatformer.mark")
    return len(_UNDECODABLE.findall(text)) / sum(character > "\x7f" for character in text)


def _korean_share(data: bytes, encoding: str) -> float:
    """The share of common Korean syllables in the letters that are not ASCII."""
    text = data.decode(encoding, "chatformer.mark")
    letters = [letter for letter in text if letter > "\x7f" and (letter.isalpha() or _UNDECODABLE.match(letter))]
    return sum(letter in _COMMON_SYLLABLES for letter in letters) / max(1, len(letters))


def _readings(line: bytes) -> str:
    """What a line says in each possible encoding, to choose from."""
    readings: dict[str, str] = {}
    for encoding in _POSSIBLE_ENCODINGS:
        with contextlib.suppress(UnicodeDecodeError):
            text = line.decode(encoding).strip()
            if text.replace("\t", "").isprintable():
                readings.setdefault(text[:_CHARACTERS_SHOWN], encoding)
    return "".join(f"\n  {encoding}: {text}" for text, encoding in readings.items())


def _find_encoding(file: str, data: bytes) -> str:
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            return encoding
    # Their bytes have seven bits, so they are valid UTF-8 too: this check must come first.
    for sequence, encoding in _ESCAPE_SEQUENCES.items():
        if sequence in data:
            logger.warning("%s: read as %s. Pass --encoding if it is something else.", file, encoding)
            return encoding
    try:
        data.decode("utf-8")
        return "utf-8"
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
    if _undecodable_share(data, "utf-8") < _MOST_UNDECODABLE_UTF_8:
        return "utf-8"
    lines = data.splitlines()
    # That it decodes without an error does not make it Korean: nearly any two bytes are a syllable in these encodings.
    sample = b"\n".join(line for line in lines if not line.isascii())[:_BYTES_JUDGED]
    shares = {encoding: _korean_share(sample, encoding) for encoding in ("cp949", "johab")}
    likeliest = max(shares, key=lambda encoding: shares[encoding])
    if shares[likeliest] < _LEAST_COMMON_SYLLABLES:
        line = next(line for line in lines if not line.isascii())
        raise DataError(
            f"{file}, row {row}: the text is not UTF-8, and it is not clear what it is. Save it as UTF-8, or pass "
            f"--encoding with the name of its encoding. That row in some of them:{_readings(line)}"
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
        text = data.decode(encoding, "chatformer.mark")
    except LookupError as error:
        hint = did_you_mean(encoding, encodings.aliases.aliases)
        raise DataError(
            f"{file}: there is no text encoding {encoding!r}.{hint} Korean ones are utf-8, cp949, johab, iso2022_kr."
        ) from error
    except UnicodeError as error:
        raise DataError(f"{file} cannot be read as {encoding} ({error}). Pass another --encoding.") from error
    if "\0" in text:
        row = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{file}, row {row}: a NUL character, when it is read as {encoding}. {advice}")
    if "\ufeff" in text:
        # Joined files have a byte order mark where each of them began.
        text = re.sub("^\ufeff+", "", text, flags=re.MULTILINE)
    return text, encoding


def undecodable(text: str, encoding: str) -> str | None:
    """What is wrong with a decoded text, or None."""
    match = _UNDECODABLE.search(text)
    return f"the byte 0x{ord(match[0]) - 0xDC00:02X} is not {encoding}" if match else None
