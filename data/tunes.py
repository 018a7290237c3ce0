"""
The data "tunes": melodies of the corpora in the package `music21`, each asked for in Korean and in English.

O'Neill's Music of Ireland, Ryan's Mammoth Collection and Aird's Airs; by choice the Essen folk songs, whose files may
not be used commercially. Chatformer ships none of them. Held out are titles, with all tunes that have them.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random

from .melodies import Found, Unusual, found_in
from .pictures import check_packages
from .wishes import Headers, in_english, in_korean, some_of

TUNES = {"oneills1850": "Ireland", "ryansMammoth": "America", "airdsAirs": "Scotland"}
"""By folder of music21's corpus, where its tunes come from."""
ESSEN = {"essenFolksong": ""}

WISHES = 2
"""Wishes for each tune and language that are learnt; a held out tune has one."""
FEWEST = 32
"""About the least wishes for a rhythm in each language: of waltzes there are four, and people ask for them."""
EVERY = 20
"""Of so many titles one is held out."""
INCIPIT = 16
"""Two tunes that begin with so many equal notes are one."""


def rows(*, essen: bool = False, held_out: bool) -> Iterator[dict[str, str]]:
    """Wishes and a tune for each tune and language."""
    chosen = tunes(essen=essen, held_out=held_out)
    rhythms = Counter(found.rhythm for found in chosen)
    for found in chosen:
        headers = Headers(found.title, found.rhythm, found.tune.key, found.tune.metre, found.origin)
        # So that the wishes for a tune do not depend on what else is read.
        chance = Random(found.text)
        for _ in range(1 if held_out else max(WISHES, FEWEST // rhythms[found.rhythm])):
            for in_words in (in_korean, in_english):
                yield {"question": in_words(some_of(headers, chance), chance), "answer": found.text}


def tunes(*, essen: bool = False, held_out: bool = False) -> tuple[Found, ...]:
    """
    The tunes to learn, or those that are held out; each once, whatever its titles.

    A tune that begins as one that is held out does is not learnt.
    """
    found = different_tunes(essen=essen)
    kept = [tune for tune in found.values() if is_held_out(tune.title)]
    if held_out:
        return tuple(kept)
    beginnings = {melody(tune.tune.body)[:INCIPIT] for tune in kept}
    return tuple(
        tune
        for tune in found.values()
        if not is_held_out(tune.title) and melody(tune.tune.body)[:INCIPIT] not in beginnings
    )


@cache
def different_tunes(*, essen: bool) -> dict[str, Found]:
    """By their melodies, the tunes of a corpus, which music21 takes minutes to read."""
    found: dict[str, Found] = {}
    for tune in read_tunes(ESSEN if essen else TUNES, names_tonic_alone=essen):
        found.setdefault(melody(tune.tune.body), tune)
    return found


def is_held_out(title: str) -> bool:
    """True if tunes of this title are not learnt; articles, signs and capitals make no other title."""
    words = [word for word in re.findall(r"\w+", title.lower()) if word not in ("the", "a")]
    return hashlib.sha256(" ".join(sorted(words)).encode()).digest()[0] % EVERY == 0


def melody(body: str) -> str:
    """The names of a tune's notes, without lengths, octaves and bars."""
    return "".join(re.findall("[A-Ga-g]", body)).upper()


def read_tunes(folders: dict[str, str], *, names_tonic_alone: bool) -> Iterator[Found]:
    """
    The tunes of music21's folders that the form can write, with bars that are as long as their metre says.

    `names_tonic_alone` is for corpora that write "K: A" for A minor, too.
    """
    check_packages("tunes", "music21", extra="music")
    import music21

    corpus = Path(music21.__file__).parent / "corpus"
    for folder, origin in folders.items():
        for file in sorted((corpus / folder).glob("*.abc")):
            for abc in re.split(r"(?m)^(?=X:)", file.read_text("utf-8", "replace")):
                try:
                    yield found_in(abc, origin, names_tonic_alone=names_tonic_alone)
                except Unusual:
                    continue
