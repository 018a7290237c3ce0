import codecs
import json
import logging

import pytest

KOREAN = "Q,A\n오늘 날씨가 참 좋네요,산책하기 좋은 날이에요\n점심 뭐 먹을까?,김치찌개는 어때요?\n"
KOREAN_PAIRS = [("오늘 날씨가 참 좋네요", "산책하기 좋은 날이에요"), ("점심 뭐 먹을까?", "김치찌개는 어때요?")]


@pytest.mark.parametrize("named", [False, True], ids=["found", "named"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp949", "johab", "iso2022_kr"])
def test_encodings(pairs, written, tmp_path, caplog, encoding, named):
    path = written(tmp_path / "chats.csv", KOREAN.encode(encoding))
    with caplog.at_level(logging.INFO):
        assert pairs(path, encoding=encoding if named else None) == KOREAN_PAIRS
    reported = any(f"read as {encoding}" in record.getMessage() for record in caplog.records)
    assert reported == (not named and not encoding.startswith("utf"))


def test_johab_that_could_be_cp949(pairs, written, tmp_path):
    # All of these bytes are valid CP949 too, of syllables that nobody writes.
    text = "Q,A\n가족들이랑 어디 가지?,온 가족이 모두 마음에 드는 곳으로 가보세요.\n"
    assert "가족들이랑" not in text.encode("johab").decode("cp949")
    path = written(tmp_path / "chats.csv", text.encode("johab"))
    assert pairs(path)[0][0] == "가족들이랑 어디 가지?"


@pytest.mark.parametrize("mark", [codecs.BOM_UTF16_BE, codecs.BOM_UTF16_LE])
def test_utf_16_by_its_mark(pairs, error_of, written, tmp_path, mark):
    encoding = "utf-16-be" if mark == codecs.BOM_UTF16_BE else "utf-16-le"
    assert pairs(written(tmp_path / "a.csv", mark + KOREAN.encode(encoding))) == KOREAN_PAIRS
    assert "row 2: the byte" in error_of(written(tmp_path / "b.csv", mark + "Q,A\na,".encode(encoding) + b"\xd8"))
    plain = written(tmp_path / "c.csv", KOREAN.encode(encoding))
    assert "row 1: a NUL byte" in error_of(plain)
    assert pairs(plain, encoding=encoding) == KOREAN_PAIRS
    assert "row 1: a NUL character" in error_of(plain, encoding="utf-8")


@pytest.mark.parametrize("encoding", ["utf-8", "cp949", "johab"])
@pytest.mark.parametrize("name", ["chats.csv", "chats.json"])
def test_one_broken_byte_is_one_broken_row(pairs, error_of, written, tmp_path, encoding, name):
    text = KOREAN + "망가진 줄,!고장\n"
    if name.endswith(".json"):
        records = [dict(zip("QA", line.split(","), strict=True)) for line in text.splitlines()[1:]]
        text = json.dumps(records, ensure_ascii=False)
    path = written(tmp_path / name, text.encode(encoding).replace(b"!", b"\xff"))
    row = 4 if name.endswith(".csv") else 3
    assert f"row {row}: the byte 0xFF is not {encoding}" in error_of(path)
    assert f"row {row}: the byte 0xFF is not {encoding}" in error_of(path, encoding=encoding)
    assert pairs(path, skip_bad_rows=True) == KOREAN_PAIRS


def test_text_in_another_encoding(pairs, error_of, written, tmp_path):
    path = written(tmp_path / "chats.csv", "Q,A\nGrüße,Schöne Grüße\nÜber Größe?,Müßig\n".encode("latin-1"))
    message = error_of(path)
    assert "chats.csv, row 2: the text is not UTF-8, nor any Korean encoding" in message and "--encoding" in message
    assert pairs(path, encoding="latin-1")[0] == ("Grüße", "Schöne Grüße")
    assert "2 of 2 rows" in error_of(path, encoding="ascii")


@pytest.mark.parametrize("encoding", ["cp994", "rot13", "hex", ""])
def test_an_unknown_encoding(error_of, written, tmp_path, encoding):
    message = error_of(written(tmp_path / "chats.csv", KOREAN), encoding=encoding)
    assert f"no text encoding {encoding!r}" in message and "cp949" in message
