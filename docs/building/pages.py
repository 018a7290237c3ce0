"""
A page of the tutorial: its code blocks, and the markers in the line above them.

    <!-- source: chatformer.attention.attention -->   the block is the source of this object
    <!-- output -->                                   the block is what the block before it prints
    <!-- output: last 12 -->                          only the last 12 lines of it
"""

import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TUTORIAL = DOCS / "tutorial"
OVERVIEW = DOCS / "overview.md"

NOT_IN_NOTEBOOKS = re.compile(r"\b(?:chatformer (?:web|serve|push|space)|pip install|accelerate launch|curl)\b")
"""Lines that wait for people, install, or need an account; a page that has them shows no output of theirs."""

BLOCK = re.compile(
    r"^(?:<!-- (?P<marker>source|output)(?:: (?P<value>[^\n]+?))? -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A code block and the marker above it, which is empty for what a reader runs or only reads."""

    marker: str
    value: str
    language: str
    code: str

    @property
    def is_run(self) -> bool:
        return not self.marker and self.language in ("bash", "python")


def pages() -> list[Path]:
    """The English pages that have outputs or source in them, in the order in which they are taught."""
    return [*sorted(TUTORIAL.glob("*.md")), OVERVIEW]


def korean_twin(page: Path) -> Path:
    return DOCS / "ko" / page.relative_to(DOCS)


def blocks(text: str) -> list[Block]:
    """The blocks of a page, in order."""
    return [
        Block(match["marker"] or "", match["value"] or "", match["language"], match["code"])
        for match in BLOCK.finditer(text)
    ]


def with_codes(text: str, codes: Sequence[str]) -> str:
    """The page with the code of each of its blocks replaced."""
    following = iter(codes)

    def replaced(match: re.Match[str]) -> str:
        before, after = match.start("code") - match.start(), match.end("code") - match.start()
        return match[0][:before] + next(following) + match[0][after:]

    return BLOCK.sub(replaced, text)


def source_of(name: str) -> str:
    """The source of a function, class or method, by its full name."""
    words = name.split(".")
    for length in range(len(words) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(words[:length]))
        except ModuleNotFoundError:
            continue
        for word in words[length:]:
            found = getattr(found, word)
        return textwrap.dedent(inspect.getsource(found))
    raise ModuleNotFoundError(f"A page shows the source of {name}, which cannot be imported.")


def with_sources(text: str) -> str:
    """The page with the present source in each block that shows some."""
    codes = [source_of(block.value) if block.marker == "source" else block.code for block in blocks(text)]
    return with_codes(text, codes)


def with_blocks_of(text: str, original: str) -> str:
    """A twin with the sources and outputs of the original; its commands stay, with their translated comments."""
    mine, others = blocks(text), blocks(original)
    if [block[:3] for block in mine] != [block[:3] for block in others]:
        raise ValueError(f"The twins have other blocks: {list(differences(mine, others))}.")
    codes = [other.code if other.marker else block.code for block, other in zip(mine, others, strict=True)]
    return with_codes(text, codes)


def differences(mine: Sequence[Block], others: Sequence[Block]) -> Iterator[str]:
    """The first block in which two pages differ."""
    for number in range(max(len(mine), len(others))):
        pair = [blocks[number][:3] if number < len(blocks) else None for blocks in (mine, others)]
        if pair[0] != pair[1]:
            yield f"block {number + 1} is {pair[0]} and {pair[1]}"
            return
