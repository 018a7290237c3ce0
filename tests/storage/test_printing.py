"""Texts are printed as they are, on a terminal of any encoding."""

import io
import sys
from pathlib import Path

import pytest
from rich.table import Table

import chatformer.storage.printing
from chatformer.cli.main import main
from chatformer.storage.printing import plain_console

ROOT = Path(chatformer.storage.printing.__file__).parents[1]
ROOMS = "configuration modeling_chatformer storage data chat evaluation training hub cli"
SOURCES = {
    path.relative_to(ROOT): path.read_text("utf-8") for room in ROOMS.split() for path in (ROOT / room).rglob("*.py")
}
NAMES = "a[/b] [red]x[/] [[ \\[dim] :heart: \\"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp949", "utf-8"])
def test_a_command_prints_in_any_encoding(encoding, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "argv", ["chatformer", "--version"])
    assert main() == 0
    text = "안녕 it’s 😀 \udcb0"
    print(text)
    plain_console().print(text)
    stream.flush()
    expected = text.encode(encoding, "replace").decode(encoding)
    assert stream.buffer.getvalue().decode(encoding).splitlines()[1:] == [expected, expected]


def test_names_are_no_markup(capsys):
    table = Table(title=NAMES)
    table.add_row(NAMES)
    console = plain_console(soft_wrap=True)
    console.print(NAMES, style="bold")
    console.print(table)
    assert capsys.readouterr().out.count(NAMES) == 3


def test_no_other_console_and_no_other_front_door():
    assert len(SOURCES) > 50
    assert [str(path) for path, text in SOURCES.items() if "Console(" in text] == ["storage/printing.py"]
    for path, text in SOURCES.items():
        if '__name__ == "__main__"' in text:
            assert "print_in_any_encoding()" in text, path
