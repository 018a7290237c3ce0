"""
From the text of a book to its chapters: lines unwrapped, headings found, repetitions left out.

A text without headings is cut into sections, at the ends of paragraphs, which then are its chapters: something of a
book must be held out of the training, and passages would be too close to their neighbours.
"""

import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chatformer.conversation import normalized_text

from .rows import Row
from .text import undecodable

SHORTEST_CHAPTER = 2000
"""Characters; a shorter chapter, such as a line of the contents, belongs to the next one."""
FEW_CHAPTERS = 10
"""With fewer, all are cut into sections, as one of them would be too much to hold out."""
NUM_SECTIONS = 40
"""Sections of a text, unless that makes them shorter than a chapter may be."""
REPEATED = 80
"""Characters; a line of as many that stood before, such as one of a licence, is left out: it would be in chapters of
the training and in held-out ones alike."""

BREAK = "\N{REPLACEMENT CHARACTER}"
"""A line in the place of one that cannot be read: no passage goes over it."""

_NUMBER = r"(?:[ivxlcdm]+|\d+|one|two|three|four|five|six|seven|eight|nine|ten|the\s+\w+)"
_HEADING = re.compile(
    rf"(?:chapter|book|part|act|scene|canto|letter|volume|section)\s+{_NUMBER}\b.*"
    r"|(?:prologue|epilogue|preface|introduction|foreword|서문|머리말|서장|종장|맺음말|프롤로그|에필로그)\W*"
    r"|제\s*\d+\s*(?:장|부|편|권|막)(?:\s.*)?|\d+\s*장(?:\s.*)?"
    r"|[IVXLC]+\W*|\d{1,3}\W*|#{1,3}\s.*",
    re.IGNORECASE,
)
_LONGEST_HEADING = 80
# What the files of Project Gutenberg have around a book.
_BOOK_BEGINS, _BOOK_ENDS = re.compile(r"\*\*\*\s*START OF .*"), re.compile(r"\*\*\*\s*END OF .*")
_MOSTLY = 0.5
_USUAL_WIDTH = 0.95
"""Share of the lines that are no longer than the width that a text was wrapped to."""


@dataclass(frozen=True)
class Chapter:
    """Runs of text, between which something was left out."""

    runs: tuple[str, ...]

    @property
    def key(self) -> str:
        """A hash of its words: chapters with the same words are on the same side of a split."""
        words = " ".join(" ".join(self.runs).casefold().split())
        return hashlib.sha256(words.encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return sum(map(len, self.runs))


def chapters_of(file: str, text: str, encoding: str) -> tuple[list[Chapter], list[Row]]:
    """The chapters of a book, and its lines that cannot be read."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n\n").split("\n")
    problems = {number: problem for number, line in enumerate(lines) if (problem := undecodable(line, encoding))}
    unread = [
        Row(file=file, number=number + 1, content=lines[number], fields={}, problem=problem)
        for number, problem in problems.items()
    ]
    lines = [BREAK if number in problems else line for number, line in enumerate(lines)]
    chapters: list[Chapter] = []
    # Runs of the chapter so far, each as its paragraphs.
    runs: list[list[str]] = [[]]
    for paragraph in _paragraphs(lines):
        so_far: list[str] = []
        for line in map(normalized_text, paragraph):
            is_end = is_heading(line) and _length(runs) >= SHORTEST_CHAPTER
            if line == BREAK or is_end:
                runs[-1] += ["\n".join(so_far)] if so_far else []
                runs.append([])
                so_far = []
            if is_end:
                chapters.append(_chapter(runs))
                runs = [[]]
            if any(map(str.isalnum, line)):
                so_far.append(line)
        runs[-1] += ["\n".join(so_far)] if so_far else []
    if any(runs):
        rest = _chapter(runs)
        if chapters and len(rest) < SHORTEST_CHAPTER:
            rest = Chapter(chapters.pop().runs + rest.runs)
        chapters.append(rest)
    return (_sections(chapters) if len(chapters) < FEW_CHAPTERS else chapters), unread


def without_repetitions(chapters: Sequence[Chapter]) -> tuple[list[Chapter], int]:
    """The chapters that have other words than those before, without repeated lines, and the number of these."""
    seen: set[str] = set()
    num_repeated = 0

    def kept(run: str) -> Iterator[str]:
        nonlocal num_repeated
        paragraphs: list[str] = []
        for paragraph in run.split("\n\n"):
            lines: list[str] = []
            for line in paragraph.split("\n"):
                words = " ".join(line.casefold().split())
                if len(words) >= REPEATED and words in seen:
                    num_repeated += 1
                    yield "\n\n".join([*paragraphs, *(["\n".join(lines)] if lines else [])])
                    paragraphs, lines = [], []
                    continue
                seen.add(words)
                lines.append(line)
            paragraphs += ["\n".join(lines)] if lines else []
        yield "\n\n".join(paragraphs)

    different = {chapter.key: chapter for chapter in reversed(chapters)}
    return [
        Chapter(tuple(filter(None, (part for run in chapter.runs for part in kept(run)))))
        for chapter in reversed(different.values())
    ], num_repeated


def _length(runs: Sequence[Sequence[str]]) -> int:
    return sum(len(paragraph) for run in runs for paragraph in run)


def _chapter(runs: Sequence[Sequence[str]]) -> Chapter:
    return Chapter(tuple("\n\n".join(run) for run in runs if run))


def _sections(chapters: Sequence[Chapter]) -> list[Chapter]:
    """The chapters, each cut at the ends of its paragraphs, or at those of lines where it has no paragraphs."""
    length = max(SHORTEST_CHAPTER, sum(map(len, chapters)) // NUM_SECTIONS)
    sections = []
    for chapter in chapters:
        runs: list[list[str]] = [[]]
        for run in chapter.runs:
            between = "\n\n" if "\n\n" in run else "\n"
            for paragraph in run.split(between):
                if _length(runs) >= length:
                    sections.append(_joined(runs, between))
                    runs = [[]]
                runs[-1].append(paragraph)
            runs[-1] = [between.join(runs[-1])]
            runs.append([])
        sections.append(_joined(runs, "\n\n"))
    return [section for section in sections if len(section)]


def _joined(runs: Sequence[Sequence[str]], between: str) -> Chapter:
    return Chapter(tuple(between.join(run) for run in runs if run))


def is_heading(line: str) -> bool:
    """True if a line alone begins a chapter."""
    return len(line) <= _LONGEST_HEADING and _HEADING.fullmatch(line) is not None


def _paragraphs(lines: Sequence[str]) -> Iterator[list[str]]:
    """Yield the lines of each paragraph, those of wrapped prose joined to one."""
    blocks = list(_blocks(lines))
    lengths = sorted(len(line.strip()) for block in blocks for line in block)
    width = lengths[int(_USUAL_WIDTH * (len(lengths) - 1))] if lengths else 0
    breaks = [[_is_wrapped(*pair, width) for pair in itertools.pairwise(map(str.strip, block))] for block in blocks]
    is_wrapped = _is_mostly([each for block in breaks for each in block])
    for block, its_breaks in zip(blocks, breaks, strict=True):
        if is_wrapped and _is_mostly(its_breaks):
            yield [" ".join(" ".join(block).split())]
        else:
            yield [" ".join(line.split()) for line in block]


def _blocks(lines: Sequence[str]) -> Iterator[list[str]]:
    """Yield the lines between blank ones; an indented line after one that is not begins a paragraph too."""
    begin = next((number + 1 for number, line in enumerate(lines) if _BOOK_BEGINS.match(line)), 0)
    end = next((number for number, line in enumerate(lines) if number > begin and _BOOK_ENDS.match(line)), len(lines))
    block: list[str] = []
    for line in lines[begin:end]:
        is_indented = bool(block) and line[:1].isspace() and not block[-1][:1].isspace()
        if block and (not line.strip() or is_indented or BREAK in (line, block[-1])):
            yield block
            block = []
        if line.strip():
            block.append(line)
    if block:
        yield block


def _is_wrapped(before: str, after: str, width: int) -> bool:
    """True if the first word of the line after would not have had room in the line before."""
    return len(before) + 1 + len(after.split(maxsplit=1)[0]) > width


def _is_mostly(flags: Sequence[bool]) -> bool:
    return bool(flags) and sum(flags) > _MOSTLY * len(flags)
