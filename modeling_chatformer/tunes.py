"""
A tune as text: ABC notation in one line.

    [M:6/8][L:1/8][K:G] d | gdB GBd | edB A2 d | gdB GBd | edB G2 |]

The head says the metre, the length of a note without a number, and the key. The notes of a beat stand together, so that
a beat can be one token; a bar is what lies between two bar lines. Of all that ABC has, this is a small part: a melody,
its rests, triplets (`(3abc`), long and short notes (`a>b`), repeats and endings.
"""

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

SIXTEENTH, EIGHTH = Fraction(1, 16), Fraction(1, 8)
UNITS = {
    "2/4": SIXTEENTH,
    "3/4": EIGHTH,
    "4/4": EIGHTH,
    "2/2": EIGHTH,
    "3/8": EIGHTH,
    "6/8": EIGHTH,
    "9/8": EIGHTH,
    "12/8": EIGHTH,
}
"""By metre, the note without a number. So bars of 2/4, which are written in sixteenths, look as those of 4/4 do."""

FIELD = r"\[[A-Z]:[^\]\s]*\]"
"""A pattern of a field of the head."""
PITCH = r"(?:[_^=]{0,2}(?:[A-G],*|[a-g]'*)|z)"
LENGTH = r"(?:[1-9][0-9]?(?:/[1-9]?)?|/[1-9]?)?"
GROUP = rf"(?:(?:\(3)?{PITCH}{LENGTH}[<>]?)+"
"""A pattern of notes that stand together."""
BAR_LINE = r":?\|[12]|\|\||\|:|:\||::|\|\]|\|"
HEAD = r"\[M:(?P<metre>[0-9]+/[0-9]+)\]\[L:(?P<unit>1/[0-9]+)\]\[K:(?P<key>[A-G][b#]?(?:m|mix|dor|phr|lyd)?)\]"
TUNE = re.compile(rf"{HEAD}(?P<body>(?: (?:{GROUP}|{BAR_LINE})(?![^ \n]))+)")
"""A tune among other text."""

NOTE = re.compile(rf"(?P<triplet>\(3)?(?P<pitch>{PITCH})(?P<length>{LENGTH})(?P<broken>[<>]?)")
BETWEEN_PARTS = frozenset(("", "||", "|:", ":|", "::", "|]", "|1", "|2", ":|1", ":|2"))
"""Where a bar may be incomplete, since the tune begins, ends or repeats there."""


class Bar(NamedTuple):
    """What lies between two bar lines."""

    notes: str
    before: str
    after: str
    """The bar lines around it; "" where the tune begins or breaks off."""

    @property
    def may_be_short(self) -> bool:
        """True if it begins or ends a part of the tune, where an upbeat takes from the last bar."""
        return self.before in BETWEEN_PARTS or self.after in BETWEEN_PARTS


class Tune(NamedTuple):
    """The parts of a tune's text."""

    metre: str
    unit: Fraction
    key: str
    body: str

    @property
    def bar_length(self) -> Fraction:
        """The length of a complete bar, in notes without a number."""
        return Fraction(self.metre) / self.unit

    def bars(self) -> Iterator[Bar]:
        """The bars in their order."""
        notes: list[str] = []
        before = ""
        for word in [*self.body.split(), ""]:
            if word and not re.fullmatch(BAR_LINE, word):
                notes.append(word)
                continue
            if notes:
                yield Bar(" ".join(notes), before, word)
            notes, before = [], word


def tune_of(text: str) -> Tune | None:
    """The parts of a text that is a tune and nothing else; None if it is none."""
    match = TUNE.fullmatch(text)
    if match is None:
        return None
    return Tune(match["metre"], Fraction(match["unit"]), match["key"], match["body"].strip())


BROKEN = {
    "": (Fraction(1), Fraction(1)),
    ">": (Fraction(3, 2), Fraction(1, 2)),
    "<": (Fraction(1, 2), Fraction(3, 2)),
}
"""By the sign between two notes, the factors of their lengths: one takes half of the other."""


def length_of(notes: str) -> Fraction:
    """How long notes are together, in notes without a number."""
    total, in_triplet, factor = Fraction(0), 0, Fraction(1)
    for match in NOTE.finditer(notes):
        if match["triplet"]:
            in_triplet = 3
        length = factor * number_of(match["length"])
        own, factor = BROKEN[match["broken"]]
        length *= own
        if in_triplet:
            length *= Fraction(2, 3)
            in_triplet -= 1
        total += length
    return total


def number_of(length: str) -> Fraction:
    """The number that ABC writes behind a note: none is 1, and a slash without a number halves."""
    numerator, slash, denominator = length.partition("/")
    return Fraction(int(numerator or 1), int(denominator or 2) if slash else 1)


SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
ACCIDENTALS = {"_": -1, "^": 1, "=": 0}
FIFTHS = "FCGDAEB"
"""The steps in the order in which keys sharpen them; the other way round they are flattened."""
SHARPER = {"": 0, "m": -3, "mix": -1, "dor": -2, "phr": -4, "lyd": 1}
"""By mode, how many more sharps a key has than the major one of its tonic."""


def steps_of(tune: Tune) -> list[int]:
    """The notes of a tune in semitones above its tonic, from 0 to 11, without octaves and rests."""
    letter, sign, mode = tune.key[0], tune.key[1:2].strip("mdpl"), tune.key[1:].lstrip("b#")
    sharps = FIFTHS.index(letter) - 1 + {"": 0, "b": -7, "#": 7}[sign] + SHARPER[mode]
    signature = {step: int(FIFTHS.index(step) < sharps) - int(6 - FIFTHS.index(step) < -sharps) for step in FIFTHS}
    tonic = SEMITONES[letter] + {"": 0, "b": -1, "#": 1}[sign]
    steps = []
    for bar in tune.bars():
        # An accidental is valid to the end of its bar.
        altered: dict[str, int] = {}
        for match in NOTE.finditer(bar.notes):
            pitch = match["pitch"].lstrip("_^=")
            accidentals = match["pitch"][: -len(pitch)]
            if accidentals:
                altered[pitch] = sum(ACCIDENTALS[each] for each in accidentals)
            if pitch != "z":
                step = pitch[0].upper()
                steps.append((SEMITONES[step] + altered.get(pitch, signature[step]) - tonic) % 12)
    return steps


def abc_of(tune: str, title: str = "") -> str:
    """The text of a tune as a file of ABC, whose head has a line for each field."""
    fields = [field[1:-1] for field in re.findall(FIELD, tune)]
    body = re.sub(FIELD, "", tune).strip()
    # The first line says that an accidental is valid to the end of its bar.
    return "\n".join(["%abc-2.1", "X:1", f"T:{title}", *fields, body, ""])
