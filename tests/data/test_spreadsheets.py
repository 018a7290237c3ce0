import sys
import zipfile
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

PAIRS = [("안녕", "반가워요"), ("뭐 해?", "쉬어요")]
RELATIONSHIPS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
Cell = str | int | float | None


def workbook(path: Path, **sheets: list[list[Cell]]) -> Path:
    """Write the sheets to an Excel file."""
    names = list(enumerate(sheets, start=1))
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{PACKAGE}/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Default Extension="xml" ContentType="application/xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="r1" '
        f'Type="{RELATIONSHIPS}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook {MAIN} xmlns:r="{RELATIONSHIPS}"><sheets>'
        + "".join(f'<sheet name="{name}" sheetId="{number}" r:id="r{number}"/>' for number, name in names)
        + "</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{PACKAGE}/relationships">'
        + "".join(
            f'<Relationship Id="r{number}" Type="{RELATIONSHIPS}/worksheet" Target="worksheets/sheet{number}.xml"/>'
            for number, _ in names
        )
        + "</Relationships>",
    }
    for number, name in names:
        rows = "".join(
            f'<row r="{row}">'
            + "".join(cell(f"{chr(65 + column)}{row}", value) for column, value in enumerate(values))
            + "</row>"
            for row, values in enumerate(sheets[name], start=1)
        )
        parts[f"xl/worksheets/sheet{number}.xml"] = f"<worksheet {MAIN}><sheetData>{rows}</sheetData></worksheet>"
    with zipfile.ZipFile(path, "w") as archive:
        for part, content in parts.items():
            archive.writestr(part, f'<?xml version="1.0" encoding="UTF-8"?>{content}')
    return path


def cell(place: str, value: Cell) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return f'<c r="{place}" t="inlineStr"><is><t xml:space="preserve">{escape(value)}</t></is></c>'
    return f'<c r="{place}"><v>{value}</v></c>'


def test_the_first_sheet_or_the_one_that_is_named(pairs, error_of, tmp_path, caplog):
    header = ["id", "질문", "답변"]
    path = workbook(
        tmp_path / "chats.xlsx",
        하나=[header, *([number, *pair] for number, pair in enumerate(PAIRS))],
        둘=[header, [1, '"따옴표", 쉼표\n줄', "네"]],
    )
    assert pairs(path) == PAIRS
    assert "only the first of the sheets 하나, 둘 is read" in caplog.text
    caplog.clear()
    assert pairs(path, sheet="둘") == [('"따옴표", 쉼표\n줄', "네")]
    assert not caplog.records
    assert "no sheet '셋'; its sheets are 하나, 둘" in error_of(path, sheet="셋")


def test_rows_and_cells_of_a_sheet(pairs, error_of, tmp_path):
    rows = [[None, None], ["Q", "A"], ["6 곱하기 7은?", 42], [None, None], ["Q", "A"], ["안녕", None], ["얼마?", 0.5]]
    path = workbook(tmp_path / "chats.xlsx", chats=rows)
    assert pairs(path, skip_bad_rows=True) == [("6 곱하기 7은?", "42")]
    message = error_of(path)
    assert "chats.xlsx, row 6: the answer is empty" in message
    assert "chats.xlsx, row 7: the answer is not text but float" in message


def test_what_is_no_excel_file(error_of, written, tmp_path):
    assert "cannot be read as an Excel file" in error_of(written(tmp_path / "a.xlsx", "Q,A\n안녕,네\n"))
    path = workbook(tmp_path / "chats.xlsx", chats=[["Q", "A"], *PAIRS])
    cut = written(tmp_path / "cut.xlsx", path.read_bytes()[:300])
    assert "cannot be read as an Excel file" in error_of(cut)


def test_a_package_that_is_not_installed_is_named(error_of, tmp_path, monkeypatch):
    path = workbook(tmp_path / "chats.xlsx", chats=[["Q", "A"], *PAIRS])
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    assert "pip install 'chatformer[excel]'" in error_of(path)


@pytest.mark.parametrize("name", ["chats.csv", "chats.xlsx"])
def test_options_that_have_no_effect_are_named(pairs, written, tmp_path, caplog, name):
    if name.endswith(".xlsx"):
        assert pairs(workbook(tmp_path / name, chats=[["Q", "A"], *PAIRS]), encoding="cp949") == PAIRS
        assert "The encoding cp949 is not used" in caplog.text
    else:
        path = written(tmp_path / name, "Q,A\n안녕,반가워요\n")
        assert pairs(path, sheet="하나") == PAIRS[:1]
        assert "The sheet 하나 is not used" in caplog.text
