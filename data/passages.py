"""
From a chapter to passages: a prompt of random length, and its continuation.

Continuations follow each other through a chapter and end where a sentence ends. A prompt is what stands before its
continuation, from a word to a paragraph of it. Half of the prompts end within a sentence, after its first words, as
people begin one; the others end with a sentence.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

SHORTEST, LONGEST = 40, 300
"""Columns of a continuation; a wide character, such as a syllable of Hangul, takes two. With the usual vocabulary the
longest has about 100 tokens."""

_END = re.compile(r"[.!?…。！？]+[\"'”’»)\]』」]*(?=\s)|(?=\n\n)")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\[“\"'])(?:[A-Za-z]|Mr|Mrs|Ms|Dr|St|Prof|Rev|Gen|Col|Capt|Hon|Esq|No|Vol|vs|etc|adj|adv|cf|pp|e\.g|i\.e)\.$"
)
_WORD = re.compile(r"\S+")


class Passage(NamedTuple):
    """A prompt and its continuation, which go from `begin` over `cut` to `end` of a text."""

    begin: int
    cut: int
    end: int


def passages(text: str, chance: Random) -> Iterator[Passage]:
    """Yield the passages of a text, one after the other."""
    sentences = sentences_of(text)
    first = 0
    while first < len(sentences):
        wanted = chance.uniform(SHORTEST, LONGEST)
        last = first
        length = columns(text[sentences[first][0] : sentences[first][1]])
        while last + 1 < len(sentences):
            longer = columns(text[sentences[first][0] : sentences[last + 1][1]])
            if longer > LONGEST or (longer > wanted and length >= SHORTEST):
                break
            last, length = last + 1, longer
        start, end = sentences[first][0], sentences[last][1]
        cut = start
        words = [start + match.start() for match in _WORD.finditer(text[start : sentences[first][1]])]
        if len(words) > 1 and (first == 0 or chance.random() < 0.5):
            # The number of words of a prompt is as often from 1 to 2 as from 2 to 4 or from 4 to 8.
            cut = words[int(len(words) ** chance.random())]
        if cut > start or first > 0:
            yield Passage(_prompt_begin(text, sentences[:first], start, cut, LONGEST ** chance.random()), cut, end)
        first = last + 1


def _prompt_begin(text: str, before: Sequence[tuple[int, int]], start: int, cut: int, wanted: float) -> int:
    """Where a prompt of about the wanted columns begins: with a sentence, or with a word if a sentence is too long."""
    begin = start
    for sentence_start, _ in reversed(before):
        if columns(text[sentence_start:cut]) > wanted:
            break
        begin = sentence_start
    if begin < cut:
        return begin
    # At a sentence's end, the prompt is the last words of the sentence before.
    sentence_start, sentence_end = before[-1]
    words = [sentence_start + match.start() for match in _WORD.finditer(text[sentence_start:sentence_end])]
    fitting = [word for word in words if columns(text[word:cut]) <= wanted]
    return min(fitting, default=words[-1])


def sentences_of(text: str) -> list[tuple[int, int]]:
    """Where each sentence begins and ends; one that is too long for a continuation is cut between words."""
    spans = []
    begin = 0
    for match in _END.finditer(text):
        end = match.end()
        following = text[end:].lstrip()[:1] if match[0] else ""
        if match[0] and (following.islower() or _ABBREVIATION.search(text[max(0, end - 12) : end])):
            continue
        spans.append((begin, end))
        begin = end
    spans.append((begin, len(text)))
    return [part for span in spans for part in _parts(text, *span)]


def _parts(text: str, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the words of a span in parts that are no longer than a continuation may be."""
    words = [(begin + match.start(), begin + match.end()) for match in _WORD.finditer(text[begin:end])]
    part: list[tuple[int, int]] = []
    for word in words:
        if part and columns(text[part[0][0] : word[1]]) > LONGEST:
            yield part[0][0], part[-1][1]
            part = []
        part.append(word)
    if part:
        yield part[0][0], part[-1][1]


def columns(text: str) -> int:
    """The width of a text in a terminal."""
    return len(text) if text.isascii() else sum(1 + (unicodedata.east_asian_width(sign) in "WF") for sign in text)
