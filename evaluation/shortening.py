"""A text of any length and kind in a line of a terminal."""

from chatformer.pictures import in_words


def shortened(text: str, width: int = 60) -> str:
    """The text in one line of at most `width` characters, where what a terminal would obey is written out."""
    line = "".join(sign if sign.isprintable() else f"<U+{ord(sign):04X}>" for sign in " ".join(in_words(text).split()))
    return line if len(line) <= width else line[: width - 1] + "…"
