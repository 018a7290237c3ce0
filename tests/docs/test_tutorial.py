"""The lesson: what it shows is what there is, both languages alike, and its commands run."""

import ast
import contextlib
import importlib
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted((DOCS / "tutorial").glob("*.md")), DOCS / "overview.md"]
READMES = [ROOT / "README.md", ROOT / "README.ko.md"]
SMOKE = ("04-positions", "06-masks")


@pytest.fixture(scope="module")
def building():
    """Return a function that imports a script of docs/, which are not installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)
        patch.syspath_prepend(DOCS / "building")
        yield importlib.import_module
    for path in DOCS.rglob("*.py"):
        sys.modules.pop(path.stem, None)


def test_nothing_is_out_of_date(building):
    pytest.importorskip("jupytext")
    stale = building("build").out_of_date()
    assert not stale, f"Run: python docs/build.py, for {[file.relative_to(ROOT).as_posix() for file, _ in stale]}"


@pytest.mark.parametrize("notebook", sorted(DOCS.rglob("tutorial/*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_s_cells_are_python_or_bash_and_say_so(notebook):
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    codes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    commands = [code for code in codes if code.startswith("%%bash\n")]
    assert len(codes) > len(commands) > 0
    for code in set(codes) - {*commands}:
        # Whatever is neither, such as a command without its line of magic, is a syntax error.
        ast.parse(code)
    # A notebook is run again, too.
    assert all("--overwrite-output-dir" in code for code in commands if "chatformer train" in code)


def test_what_is_out_of_date_is_seen(building):
    pages = building("pages")
    text = "<!-- source: chatformer.embedding.positions_of -->\n```python\nold\n```\n\n```bash\nx  # why\n```\n"
    fresh = pages.with_sources(text)
    assert "def positions_of(mask_BT: Tensor) -> Tensor:" in fresh and "old" not in fresh
    twin = text.replace("why", "왜")
    assert pages.with_blocks_of(twin, fresh) == fresh.replace("why", "왜")
    with pytest.raises(ValueError, match="block 2"):
        pages.with_blocks_of(twin, fresh.replace("```bash", "```python"))
    with pytest.raises(ModuleNotFoundError, match="nothing_there"):
        pages.source_of("nothing_there.at_all")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_twins_have_the_same_links_in_order(page):
    def targets(file):
        text = re.sub(r"^```.*?^```$", "", file.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            path = (file.parent / link.partition("#")[0]).resolve()
            # A page and its twin count as the same.
            yield path.relative_to(ROOT).as_posix().replace("docs/ko/", "docs/")

    twin = DOCS / "ko" / page.relative_to(DOCS)
    assert list(targets(page)) == list(targets(twin))


@pytest.mark.parametrize("page", PAGES[:-1], ids=lambda page: page.stem)
def test_every_korean_page_says_what_to_say(page):
    if page.stem != "README":
        assert "> **수업에서 할 말**" in (DOCS / "ko" / page.relative_to(DOCS)).read_text("utf-8")


def test_pictures_and_the_data_behind_them(building):
    """Each picture of a page has its data, and what needs no trained model is the same when drawn again."""
    shown = {name for page in PAGES for name in re.findall(r"\(images/([\w-]+\.png)\)", page.read_text("utf-8"))}
    images = DOCS / "tutorial" / "images"
    known = json.loads((images / "facts.json").read_text("utf-8"))
    assert shown == known.keys() == {file.name for file in images.glob("*.png")}

    pictures = building("pictures")
    from chatformer.embedding import sinusoids
    from chatformer.evaluation.plots import positions

    drawn = pictures.facts_of(positions(sinusoids(60, 512).numpy()))
    assert pictures.same(known["positions.png"], drawn)
    assert not pictures.same(known["positions.png"], pictures.facts_of(positions(sinusoids(60, 512).numpy() + 0.5)))
    assert not pictures.same(known["positions.png"], known["training-schedule.png"])


def run_page(building, page, folder, **options):
    running, pages = building("running"), building("pages")
    session = running.Session(folder, **options)
    blocks = pages.blocks(page.read_text("utf-8"))
    return blocks, list(running.codes_after_running(blocks, session)), session


@pytest.mark.parametrize("name", SMOKE)
def test_some_pages_run(building, trained, tmp_path, name):
    shutil.copytree(trained, tmp_path / "chatformer-quickstart", ignore=shutil.ignore_patterns("checkpoint-*"))
    page = DOCS / "tutorial" / f"{name}.md"
    blocks, codes, session = run_page(building, page, tmp_path)
    outputs = [(block.code, code) for block, code in zip(blocks, codes, strict=True) if block.marker == "output"]
    assert outputs and all(code.strip() for _, code in outputs)
    if name == "04-positions":
        # It needs no trained model, and so prints here what it printed there.
        assert all(shown == printed for shown, printed in outputs)
    assert session.pictures()


def test_a_block_that_fails_is_an_error(building, tmp_path):
    running, pages = building("running"), building("pages")
    session = running.Session(tmp_path)
    for block, message in (
        ("```bash\nfalse | cat\n```\n", "status 1"),
        ("```python\n1 / 0\n```\n", "ZeroDivisionError"),
        ("```bash\nchatformer serve bot --no-flag  # why\ntrue\n```\n", "(?s)serve bot --no-flag ended:.*no-flag"),
    ):
        with pytest.raises(running.BlockFailed, match=message):
            list(running.codes_after_running(pages.blocks(block), session))
    (block,) = pages.blocks("```bash\nchatformer space me/bot --output-dir space\necho \\\n    one\n```\n")
    assert session.run(block) == "one\n"
    assert running.legible("\x1b[1ma\x1b[0m\n 10%\r 20%\nb \n", "") == "a\n 20%\nb\n"
    assert running.legible("a\nb\nc\n", "last 1") == "⋮\nc\n"
    assert running.legible("a\nb\nc\n", "first 2") == "a\nb\n⋮\n"


@pytest.fixture(scope="module")
def classroom(tmp_path_factory):
    """Return the folder that all pages share, as a class does."""
    return tmp_path_factory.mktemp("classroom")


@pytest.mark.slow
@pytest.mark.lesson
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_the_lesson_runs(building, classroom, page):
    """All pages in their order, with short trainings; a block that fails is an error."""
    blocks, _, _ = run_page(building, page, classroom, max_steps=30)
    assert blocks


@pytest.mark.slow
@pytest.mark.lesson
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", READMES, ids=lambda page: page.name)
def test_every_command_of_the_readme_runs(building, tmp_path, page):
    shutil.copy(ROOT / "benchmarks" / "faq.csv", tmp_path / "FAQ.csv")
    (tmp_path / "questions.txt").write_text("안녕\n", "utf-8")
    with contextlib.chdir(tmp_path):
        blocks, _, _ = run_page(building, page, tmp_path, max_steps=30)
    assert blocks
