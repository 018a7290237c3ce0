"""
Bring the tutorial up to date: the source that it shows, the outputs and pictures of its commands, its notebooks.

    python docs/build.py                 source, Korean twins and notebooks; some seconds
    python docs/build.py --check         the same, but only say what is out of date
    python docs/build.py --run --folder lesson --pages 04-positions

The last command also runs the pages' commands in that folder, in the order of the pages, and writes what they print and
draw. Trained models in the folder are not trained again. A picture is replaced only if the data behind it changed.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).parent / "building"))

from notebooks import notebook_file, notebook_of
from pages import ROOT, TUTORIAL, blocks, korean_twin, pages, with_blocks_of, with_codes, with_sources
from pictures import Facts, same
from running import BlockFailed, Session, codes_after_running

IMAGES = TUTORIAL / "images"
FACTS_FILE = IMAGES / "facts.json"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Bring the tutorial up to date."""

    check: bool = False
    """Write nothing, and exit with status 1 if something is out of date."""
    run: bool = False
    """Run the commands of the pages, and write what they print and draw."""
    folder: Path = Path("lesson")
    """Folder to run them in, which keeps the trained models."""
    pages: tuple[str, ...] = ()
    """Pages to run, such as 04-positions; all unless given."""


def run_pages(settings: Settings) -> None:
    """Run pages, and write their outputs and pictures."""
    for page in pages():
        if settings.pages and page.stem not in settings.pages:
            continue
        print(page.relative_to(ROOT), file=sys.stderr)
        session = Session(settings.folder.resolve())
        text = page.read_text("utf-8")
        page.write_text(with_codes(text, list(codes_after_running(blocks(text), session))), "utf-8")
        for name, (picture, facts) in session.pictures().items():
            if f"images/{name})" in text:
                keep(picture, facts)


def keep(picture: Path, facts: Facts) -> None:
    """Take a picture into the tutorial if it shows something else than the one there."""
    known = json.loads(FACTS_FILE.read_text("utf-8")) if FACTS_FILE.exists() else {}
    if (IMAGES / picture.name).exists() and same(known.get(picture.name), facts):
        return
    IMAGES.mkdir(exist_ok=True)
    shutil.copyfile(picture, IMAGES / picture.name)
    known[picture.name] = facts
    lines = (f"{json.dumps(name)}: {json.dumps(known[name], ensure_ascii=False)}" for name in sorted(known))
    FACTS_FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


def files() -> Iterator[tuple[Path, str]]:
    """Each file that follows from others, and what it should hold."""
    for page in pages():
        text = with_sources(page.read_text("utf-8"))
        twin = korean_twin(page)
        korean_text = with_blocks_of(twin.read_text("utf-8"), text)
        yield from ((page, text), (twin, korean_text))
        if page.parent == TUTORIAL and any(block.is_run for block in blocks(text)):
            yield from ((notebook_file(page), notebook_of(text)), (notebook_file(twin), notebook_of(korean_text)))


def out_of_date() -> list[tuple[Path, str]]:
    """The files that do not hold what they should."""
    return [(file, text) for file, text in files() if not file.exists() or file.read_text("utf-8") != text]


def main(settings: Settings) -> int:
    """Do what the settings say; return the exit status."""
    if settings.run:
        try:
            run_pages(settings)
        except BlockFailed as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    stale = out_of_date()
    for file, text in stale:
        print(f"{'Out of date' if settings.check else 'Written'}: {file.relative_to(ROOT)}", file=sys.stderr)
        if not settings.check:
            file.write_text(text, "utf-8")
    return 1 if settings.check and stale else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
