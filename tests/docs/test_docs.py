"""The README and docs/: both languages say the same, every link leads somewhere, and every command exists."""

import ast
import contextlib
import importlib.util
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from chatformer.cli.main import main

ROOT = Path(__file__).parents[2]
KOREAN = ROOT / "docs" / "ko"

ENGLISH_PAGES = [
    Path("README.md"),
    *(path.relative_to(ROOT) for path in sorted((ROOT / "docs").rglob("*.md")) if KOREAN not in path.parents),
]
KOREAN_PAGES = [Path("README.ko.md"), *(path.relative_to(ROOT) for path in sorted(KOREAN.rglob("*.md")))]
OTHER_PAGES = [
    Path("CONTRIBUTING.md"),
    Path("CHANGELOG.md"),
    Path("benchmarks/LOG.md"),
    Path("training/launch/README.md"),
]
PAGES = [*ENGLISH_PAGES, *KOREAN_PAGES, *OTHER_PAGES]

FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
COMMENT = re.compile(r"(^|[ \t]+)#.*$", re.MULTILINE)
FIGURE = re.compile(r"\d+(?:[.,]\d+)+")
"""What was measured mostly has a point or a comma; small whole numbers may be words in one of the languages."""


class Block(NamedTuple):
    language: str
    code: str


def twin_of(page: Path) -> Path:
    return Path("README.ko.md") if page == Path("README.md") else Path("docs/ko") / page.relative_to("docs")


def text_of(page: Path) -> str:
    return (ROOT / page).read_text("utf-8")


def without_code(text: str) -> str:
    return FENCED.sub("", text)


def without_comments(code: str) -> str:
    """The code without comments: in blocks, they alone may be in another language."""
    return COMMENT.sub("", code)


def outline(text: str) -> list[int | Block]:
    """The levels of the headings and the code blocks, in their order."""
    parts: list[tuple[int, int | Block]] = []
    for match in FENCED.finditer(text):
        parts.append((match.start(), Block(match[1], without_comments(match[2]))))
    # Of the same length, so that the places stay comparable; a comment in a block is no heading.
    blank = FENCED.sub(lambda match: " " * len(match[0]), text)
    parts += [(match.start(), len(match[1])) for match in HEADING.finditer(blank)]
    return [part for _, part in sorted(parts, key=lambda part: part[0])]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings."""
    counts: Counter[str] = Counter()
    found = set()
    for match in HEADING.finditer(without_code(text)):
        title = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", match[2])
        anchor = re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
        found.add(f"{anchor}-{counts[anchor]}" if counts[anchor] else anchor)
        counts[anchor] += 1
    return found


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", without_code(text))


def commands(page: Path) -> list[list[str]]:
    """The words of each command in the page's blocks, a pipeline's one by one."""
    found: list[list[str]] = []
    for language, code in FENCED.findall(text_of(page)):
        if language == "bash":
            for line in code.replace("\\\n", " ").splitlines():
                found += [shlex.split(part, comments=True) for part in re.split(r"&&| \| ", line)]
    # The first word may be a path, as in .venv/bin/chatformer.
    return [[Path(words[0]).name, *words[1:]] for words in found if words]


def flags_in(words: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in words if word.startswith("--")}


def test_the_table_of_faults_names_tests_that_exist():
    rows = re.findall(r"^\|(.*)\|$", text_of(Path("tests/field_reports.md")), re.MULTILINE)[2:]
    assert len(rows) > 30
    for row in rows:
        *_, cell = row.split(" | ")
        files = [ROOT / "tests" / name for name in re.findall(r"`([\w/]+\.py)`", cell)]
        assert files, row
        sources = "".join(file.read_text("utf-8") for file in files)
        for name, is_beginning in re.findall(r"`(test_\w+)(…?)`", cell):
            assert f"def {name}{'' if is_beginning else '('}" in sources, name


def test_every_page_has_a_twin():
    assert {twin_of(page) for page in ENGLISH_PAGES} == set(KOREAN_PAGES)


@pytest.mark.parametrize("page", ENGLISH_PAGES, ids=str)
def test_twins_have_the_same_headings_and_code(page):
    assert outline(text_of(page)) == outline(text_of(twin_of(page)))


@pytest.mark.parametrize("page", ENGLISH_PAGES, ids=str)
def test_twins_have_the_same_figures(page):
    assert Counter(FIGURE.findall(text_of(page))) == Counter(FIGURE.findall(text_of(twin_of(page))))


@pytest.mark.parametrize("page", ENGLISH_PAGES, ids=str)
def test_twins_link_to_each_other(page):
    for one, other in ((page, twin_of(page)), (twin_of(page), page)):
        assert (ROOT / other) in {(ROOT / one.parent / link).resolve() for link in links(text_of(one))}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page):
    for link in links(text_of(page)):
        if re.match(r"\w+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (ROOT / page.parent / file).resolve() if file else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text("utf-8")), link


@pytest.mark.parametrize("page", [*ENGLISH_PAGES, *KOREAN_PAGES, Path("CONTRIBUTING.md")], ids=str)
def test_paths_in_the_text_exist(page):
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()}
    for name in re.findall(r"`([\w.-]+/[\w./-]*)`", without_code(text_of(page))):
        assert name.partition("/")[0] not in folders or (ROOT / name).exists(), name


def test_the_tree_has_all_rooms():
    tree = next(code for language, code in FENCED.findall(text_of(Path("README.md"))) if language == "text")
    shown = {line.partition("/")[0] for line in tree.splitlines()}
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert shown == rooms | {"benchmarks", "docs", "tests"}


@pytest.mark.parametrize("page", ENGLISH_PAGES, ids=str)
def test_commands_and_their_flags_exist(page, capsys, monkeypatch):
    benchmark_fields = {
        node.target.id.replace("_", "-")
        for path in (ROOT / "benchmarks").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    for program, *words in commands(page):
        if program == "chatformer":
            monkeypatch.setattr("sys.argv", ["chatformer", words[0], "--help"])
            with contextlib.suppress(SystemExit):
                main()
            # An unknown verb is an error, which is not written here.
            shown = capsys.readouterr().out
            assert shown and flags_in(words) <= set(re.findall(r"--[\w-]+", shown)), words
        elif program == "python":
            assert (ROOT / words[0]).exists(), words
            assert {flag.removeprefix("--") for flag in flags_in(words)} <= benchmark_fields, words
        elif program == "accelerate":
            if "-m" in words:
                assert importlib.util.find_spec(words[words.index("-m") + 1]), words
            else:
                assert any((ROOT / word / "__main__.py").is_file() for word in words), words


def test_these_tests_see_what_differs():
    text = "# One\n\n```bash\nrun --x  # why\n# more\n```\n\n## Two `b`!\n\n## Two b\n"
    assert outline(text) == [1, Block("bash", "run --x\n\n"), 2, 2]
    assert outline(text.replace("why", "왜").replace("One", "하나")) == outline(text)
    assert outline(text.replace("--x", "--y")) != outline(text)
    assert outline(text.replace("## Two b\n", "### Two b\n")) != outline(text)
    assert anchors(text) == {"one", "two-b", "two-b-1"}
    assert anchors("## 데이터가 지나는 길") == {"데이터가-지나는-길"}
