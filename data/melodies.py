"""
From a corpus's ABC to the form that is learnt: a melody in one line, its notes in beats.

music21 reads what the sources write in many ways. Ornaments, slurs, fingerings and the lower notes of chords are left
out, and so are tunes that the form cannot write, or whose bars are not as long as their metre says.
"""

import re
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

from chatformer.tunes import UNITS, Tune, length_of, tune_of

from .wishes import RHYTHMS

if TYPE_CHECKING:
    from music21.abcFormat import ABCHandler, ABCNote

COUNTRIES = {
    "Deutschland": "Germany",
    "Luxemburg": "Luxembourg",
    "Lothringen": "Lorraine",
    "Frankreich": "France",
    "Niederlande": "the Netherlands",
    "Polen": "Poland",
    "China": "China",
    "Irland": "Ireland",
}
"""Where the Essen songs come from, as their headers say it."""

FEWEST_BARS, MOST_BARS = 8, 40

METRES = {"C": "4/4", "C|": "2/2"}
MODES = {
    "major": "",
    "ionian": "",
    "minor": "m",
    "aeolian": "m",
    "mixolydian": "mix",
    "dorian": "dor",
    "phrygian": "phr",
    "lydian": "lyd",
}
BEFORE_UPBEATS = ("", "||", "|:", ":|", "::")
"""Bar lines that a part of a tune begins behind."""
SIGNS = {"#": "^", "##": "^^", "-": "_", "--": "__", "n": "="}
"""By music21's accidental, that of ABC."""


class Found(NamedTuple):
    """A tune in the form that is learnt, and what the headers say of it."""

    title: str
    rhythm: str
    """One of those that wishes name, or nothing."""
    origin: str
    text: str

    @property
    def tune(self) -> Tune:
        tune = tune_of(self.text)
        assert tune is not None
        return tune


class Unusual(Exception):
    """A tune has what the form that is learnt has not."""


class Note(NamedTuple):
    """A note, or a rest, as it is to be written."""

    pitch: str
    length: Fraction
    """In units, before the triplet that it is in makes it shorter."""
    triplet: int
    """Its place in a triplet, from 1 to 3; 0 outside."""

    @property
    def duration(self) -> Fraction:
        return self.length * (Fraction(2, 3) if self.triplet else 1)


def found_in(abc: str, origin: str, *, names_tonic_alone: bool = False) -> Found:
    """
    A tune of a corpus; raise an `Unusual` if it is not to be learnt.

    If the head `names_tonic_alone`, the notes tell whether the key is major or minor.
    """
    from music21 import abcFormat
    from music21.exceptions21 import Music21Exception

    # From this version on an accidental is valid to the end of its bar, as in print.
    handler = abcFormat.ABCHandler(abcVersion=(2, 1, 0))
    try:
        handler.process(abc)
    except (Music21Exception, ValueError, IndexError, TypeError, ZeroDivisionError) as error:
        raise Unusual(str(error)) from error
    fields: dict[str, str] = {}
    for token in handler.tokens:
        if isinstance(token, abcFormat.ABCMetadata):
            tag = token.tag or ""
            value = token.data.partition("%")[0].strip()
            if tag in ("M", "K", "V") and fields.get(tag, value) != value:
                raise Unusual(f"several {tag}")
            fields.setdefault(tag, value)
    metre = METRES.get(fields.get("M", ""), fields.get("M", ""))
    if metre not in UNITS:
        raise Unusual(f"the metre {metre}")
    key, usual = key_of(handler, names_tonic_alone=names_tonic_alone)
    text = f"[M:{metre}][L:{UNITS[metre]}][K:{key}] {body_of(handler, metre, usual)}"
    tune = tune_of(text)
    if tune is None:
        raise Unusual(text)
    check_bars(tune)
    title = title_of(fields.get("T", ""))
    countries = [country for word, country in COUNTRIES.items() if word in fields.get("O", "")]
    return Found(title, rhythm_of(fields), origin or next(iter(countries), ""), text)


def key_of(handler: "ABCHandler", *, names_tonic_alone: bool) -> tuple[str, dict[str, str]]:
    """The key as the head has it, or a minor one that its notes have, and by step of the scale its accidental."""
    from music21 import abcFormat
    from music21.key import KeySignature

    for token in handler.tokens:
        if isinstance(token, abcFormat.ABCNote):
            break
        if isinstance(token, abcFormat.ABCMetadata) and token.isKey():
            sharps, mode = token.getKeySignatureParameters()
            tonic = re.match("[A-G][b#]?", token.data)
            if tonic is None or mode not in MODES:
                continue
            if names_tonic_alone and mode == "major" and has_minor_third(handler, sharps, tonic[0][0]):
                # Of a minor key: three sharps less, or three flats more.
                sharps, mode = sharps - 3, "minor"
            altered = {pitch.step: pitch.accidental.modifier for pitch in KeySignature(sharps).alteredPitches}
            return tonic[0] + MODES[mode], {step: altered.get(step, "n") for step in "CDEFGAB"}
    raise Unusual("no key")


def has_minor_third(handler: "ABCHandler", sharps: int, tonic: str) -> bool:
    """True if most thirds above the `tonic` are a semitone lower than in the major key of so many `sharps`."""
    from music21 import abcFormat
    from music21.key import KeySignature

    third = "CDEFGAB"[("CDEFGAB".index(tonic) + 2) % 7]
    in_major = next((round(p.accidental.alter) for p in KeySignature(sharps).alteredPitches if p.step == third), 0)
    thirds = [
        name.count("#") - name.count("-") - in_major
        for token in handler.tokens
        if isinstance(token, abcFormat.ABCNote) and (name := token.pitchName) and name[0] == third
    ]
    return 2 * thirds.count(-1) > len(thirds)


def title_of(title: str) -> str:
    """A title without its number and the name of its rhythm behind it; an article comes first."""
    title = re.sub(r"\s*(--.*|\(.*\)|\[.*\])\s*$", "", title).strip(" .,;:\"'")
    match = re.fullmatch(r"(.*), (The|A)", title)
    return f"{match[2]} {match[1]}" if match else title


def rhythm_of(fields: dict[str, str]) -> str:
    """What kind of tune it is: by its header, or by its title."""
    for text in (fields.get("R", ""), fields.get("T", "")):
        words = re.sub(r"[^a-z]+", " ", text.lower()).replace("slipjig", "slip jig").replace("quick step", "quickstep")
        for rhythm in RHYTHMS:
            if re.search(rf"\b{rhythm}\b", words):
                return rhythm
    return ""


def check_bars(tune: Tune) -> None:
    """Raise an `Unusual` unless all bars are complete, but for those where a part begins or ends."""
    bars = list(tune.bars())
    if not FEWEST_BARS <= len(bars) <= MOST_BARS:
        raise Unusual(f"{len(bars)} bars")
    for bar in bars:
        length = length_of(bar.notes)
        if length != tune.bar_length and not (length < tune.bar_length and bar.may_be_short):
            raise Unusual(f"{bar.notes} in {tune.metre}")


def body_of(handler: "ABCHandler", metre: str, usual: dict[str, str]) -> str:
    """The notes and bar lines of a tune in the form that is learnt."""
    from music21 import abcFormat

    words: list[str] = []
    line = ""
    notes: list[Any] = []
    for token in handler.tokens:
        if isinstance(token, abcFormat.ABCBar):
            if notes:
                words += [line] * bool(line) + [written(notes_of(notes, metre, usual), metre, line)]
                notes, line = [], ""
            line = joined(line, token.src.strip())
        elif isinstance(token, abcFormat.ABCNote) and not token.inGrace:
            notes.append(token)
    if notes:
        words += [line] * bool(line) + [written(notes_of(notes, metre, usual), metre, line)]
        line = ""
    # A bar line before the first note says nothing, and the last one that the tune ends.
    if words and words[0] in ("|", "||", "|]"):
        del words[0]
    return " ".join([*words, ":|" if line.startswith(":") else "|]"])


def joined(before: str, after: str) -> str:
    """One bar line for two that follow each other."""
    both = before + after
    ending = re.search("[12]$", both)
    if ending:
        return f"{':' if ':' in both else ''}|{ending[0]}"
    if re.search(r"[0-9]", both):
        raise Unusual(f"the bar line {both}")
    ends, begins = both.startswith(":"), both.endswith(":")
    if ends and begins and len(both) > 1:
        return "::"
    if ends or begins:
        return ":|" if ends else "|:"
    return "|" if both == "|" else "||"


def written(notes: list[Note], metre: str, before: str) -> str:
    """A bar: the notes of a beat stand together. `before` is the bar line before it."""
    beat = 3 if metre.endswith("/8") else 2
    total = sum((note.duration for note in notes), Fraction(0))
    # An upbeat ends on a beat, and every other bar begins on one.
    place = -total % beat if before in BEFORE_UPBEATS else Fraction(0)
    groups: list[list[Note]] = [[]]
    for note in notes:
        groups[-1].append(note)
        place += note.duration
        if place % beat == 0:
            groups.append([])
    return " ".join(text_of(group) for group in groups if group)


def notes_of(tokens: list["ABCNote"], metre: str, usual: dict[str, str]) -> list[Note]:
    """The notes of a bar, with those that are tied as one."""
    from music21 import abcFormat

    shown: dict[str, str] = {}
    notes: list[Note] = []
    place, was_tied = 0, False
    for token in tokens:
        parts: list[Any] = token.subTokens if isinstance(token, abcFormat.ABCChord) else [token]
        if not parts:
            raise Unusual("an empty chord")
        # Of a chord, the melody is the highest.
        part = max(parts, key=lambda each: height(each.pitchName))
        length = Fraction(token.quarterLength).limit_denominator(64) / 4 / UNITS[metre]
        tuplet = token.activeTuplet
        if tuplet is None:
            if place % 3:
                raise Unusual("a triplet of other than three notes")
            place = 0
        elif (tuplet.numberNotesActual, tuplet.numberNotesNormal) == (3, 2):
            place = place % 3 + 1
        else:
            raise Unusual("a tuplet that is no triplet")
        if length <= 0 or length.denominator not in (1, 2, 4, 8):
            raise Unusual(f"a note of {length}")
        pitch = pitch_of(part.pitchName, usual, shown)
        if was_tied and notes and notes[-1].pitch.lstrip("_^=") == pitch.lstrip("_^=") and not place:
            notes[-1] = notes[-1]._replace(length=notes[-1].length + length)
        else:
            notes.append(Note(pitch, length, place))
        was_tied = token.tie in ("start", "continue") and not place
    if place % 3:
        raise Unusual("a triplet over a bar line")
    return notes


def height(name: str | None) -> int:
    """How high a pitch of music21 is, in steps of the scale; a rest is the lowest."""
    return -1 if name is None else 7 * int(name[-1]) + "CDEFGAB".index(name[0])


def pitch_of(name: str | None, usual: dict[str, str], shown: dict[str, str]) -> str:
    """
    A pitch of music21 as ABC has it: with an accidental if the key has another one, or the bar had another before.

    `usual` are the accidentals of the key, by step, and `shown` those of the bar so far, by note.
    """
    if name is None:
        return "z"
    match = re.fullmatch(r"([A-G])([#n-]*)([0-9])", name)
    letter = match and {"3": f"{match[1]},", "4": match[1], "5": match[1].lower(), "6": f"{match[1].lower()}'"}.get(
        match[3]
    )
    if match is None or letter is None:
        raise Unusual(f"the pitch {name}")
    accidental = match[2] or "n"
    is_usual = accidental == usual[match[1]] == shown.get(letter, accidental)
    shown[letter] = accidental
    return letter if is_usual else SIGNS[accidental] + letter


def text_of(notes: list[Note]) -> str:
    """Notes that stand together: a long and a short one that share two equal ones as ABC's broken rhythm."""
    parts, index = [], 0
    while index < len(notes):
        note = notes[index]
        after = notes[index + 1] if index + 1 < len(notes) else None
        triplet = "(3" if note.triplet == 1 else ""
        if after is not None and not note.triplet and not after.triplet:
            share = (note.length + after.length) / 2
            if share in (Fraction(1, 2), 1) and {note.length, after.length} == {share * 3 / 2, share / 2}:
                sign, half = ">" if note.length > after.length else "<", number(share)
                parts.append(f"{note.pitch}{half}{sign}{after.pitch}{half}")
                index += 2
                continue
        parts.append(f"{triplet}{note.pitch}{number(note.length)}")
        index += 1
    return "".join(parts)


def number(length: Fraction) -> str:
    """A length as ABC has it behind a note."""
    over = "" if length.numerator == 1 else str(length.numerator)
    return over + {1: "", 2: "/"}.get(length.denominator, f"/{length.denominator}")
