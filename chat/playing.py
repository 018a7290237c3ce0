"""
A tune that is heard and read: its notes, a WAV file of them, and its score.

music21 reads the notes, pretty_midi makes sound of them, and verovio draws the score in a process of its own, since
what a model writes can make it crash. All come with the extra `chatformer[music]`. Where FluidSynth is installed, it is
what pretty_midi plays on.
"""

import contextlib
import io
import re
import subprocess
import sys
import wave
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from chatformer.tunes import abc_of, tune_of

from .errors import ChatError

PACKAGES = ("music21", "pretty_midi", "verovio")
SAMPLE_RATE = 11_025
"""A small file; the highest note of a violin's first position has eight of its overtones below half of it."""
LOUDEST = 0.6
FLUTE = 73
"""The instrument's number in MIDI."""

SECONDS = {"2/4": 0.6, "3/4": 0.45, "4/4": 0.4, "2/2": 0.3, "3/8": 0.4, "6/8": 0.35, "9/8": 0.35, "12/8": 0.35}
"""By metre, how long a quarter note sounds."""
USUAL_SECONDS = 0.4

DRAW = """
import sys, verovio
verovio.enableLog(verovio.LOG_OFF)
toolkit = verovio.toolkit()
toolkit.setOptions({"adjustPageHeight": True, "pageWidth": 1800, "header": "none", "footer": "none", "scale": 60})
toolkit.setOptions({"xmlIdSeed": 1})
if not toolkit.loadData(sys.stdin.read()):
    sys.exit(1)
sys.stdout.write(toolkit.renderToSVG(1))
"""
SCORE_SECONDS = 60


class Sounding(NamedTuple):
    """A note as it sounds, in seconds; its pitch as MIDI has it."""

    pitch: int
    start: float
    end: float


def can_play() -> bool:
    """True if the packages of `chatformer[music]` are installed."""
    return all(find_spec(package) for package in PACKAGES)


def check_can_play() -> None:
    """Raise a `ChatError` that says what to install, if a tune cannot be played and drawn."""
    if not can_play():
        raise ChatError(
            "the sound and the score of a tune need music21, pretty_midi and verovio: pip install 'chatformer[music]'"
        )


@contextlib.contextmanager
def as_sentence() -> Iterator[None]:
    """Raise what music21 finds wrong with a tune as a `ChatError`."""
    from music21.exceptions21 import Music21Exception

    try:
        yield
    except (Music21Exception, ValueError, TypeError, IndexError, ZeroDivisionError) as error:
        raise ChatError(f"music21 cannot read the tune ({error}).") from error


def stream_of(tune: str) -> Any:
    """A tune as music21 has it, a score with one part; a `ChatError` says why there is none."""
    check_can_play()
    from music21 import converter

    with as_sentence():
        return converter.parse(abc_of(tune), format="abc")


def sounding(tune: str) -> list[Sounding]:
    """The notes of a tune's text, with its repeats; a `ChatError` says why there are none."""
    stream, head = stream_of(tune), tune_of(tune)
    from music21.exceptions21 import Music21Exception

    quarter = SECONDS.get(head.metre if head else "", USUAL_SECONDS)
    with as_sentence():
        melody = stream.parts[0]
        # Repeats that do not fit together are played once.
        with contextlib.suppress(Music21Exception):
            melody = melody.expandRepeats()
        return [
            Sounding(note.pitch.midi, quarter * float(note.offset), quarter * float(note.offset + note.quarterLength))
            for note in melody.flatten().notes
        ]


def overtones(phase: np.ndarray) -> np.ndarray:
    """A tone that is softer than a square, and less dull than a sine."""
    return np.sin(phase) + 0.35 * np.sin(2 * phase) + 0.15 * np.sin(3 * phase)


@lru_cache(maxsize=64)
def wav_of(tune: str) -> bytes:
    """A tune as a file of sound, by FluidSynth's flute if that is installed; a `ChatError` says why there is none."""
    notes = sounding(tune)
    import pretty_midi

    instrument = pretty_midi.Instrument(program=FLUTE)
    instrument.notes = [pretty_midi.Note(90, note.pitch, note.start, note.end) for note in notes]
    try:
        samples = instrument.fluidsynth(fs=SAMPLE_RATE)
    except ImportError:
        samples = instrument.synthesize(fs=SAMPLE_RATE, wave=overtones)
    loudest = float(np.abs(samples).max(initial=0.0)) or 1.0
    file = io.BytesIO()
    with wave.open(file, "wb") as output:
        output.setnchannels(1)
        output.setsampwidth(2)
        output.setframerate(SAMPLE_RATE)
        output.writeframes((samples * (LOUDEST * (2**15 - 1) / loudest)).astype("<i2").tobytes())
    return file.getvalue()


@lru_cache(maxsize=64)
def score_of(tune: str) -> bytes:
    """A tune's score as a file of SVG; a `ChatError` says why there is none."""
    stream = stream_of(tune)
    from music21.musicxml.m21ToXml import GeneralObjectExporter

    # Not as ABC, whose endings verovio leaves out.
    with as_sentence():
        music_xml = GeneralObjectExporter(stream).parse().decode()
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", DRAW],
            input=music_xml,
            capture_output=True,
            encoding="utf-8",
            timeout=SCORE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ChatError(f"verovio did not draw the score within {SCORE_SECONDS} seconds.") from error
    if done.returncode or "<svg" not in done.stdout:
        raise ChatError(f"verovio cannot draw the score of this tune (its exit status is {done.returncode}).")
    # A page may be dark, and notes are black.
    svg = re.sub("(<svg[^>]*>)", r'\1<rect width="100%" height="100%" fill="white"/>', done.stdout, count=1)
    return svg.encode()
