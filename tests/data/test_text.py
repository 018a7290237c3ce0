import codecs
import json
import logging

import pytest

KOREAN = "Q,A\n오늘 날씨가 참 좋네요,산책하기 좋은 날이에요\n점심 뭐 먹을까?,김치찌개는 어때요?\n"
KOREAN_PAIRS = [("오늘 날씨가 참 좋네요", "산책하기 좋은 날이에요"), ("점심 뭐 먹을까?", "김치찌개는 어때요?")]


@pytest.mark.parametrize("named", [False, True], ids=["found", "named"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp949", "johab", "iso2022_kr"])
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


JAPANESE = "Q,A\n今日はいい天気ですね,散歩に行きましょう\n何を食べますか,うどんにします\n"
CHINESE = "Q,A\n今天天气真好,我们去散步吧\n你想吃什么,我想吃面条\n"
OTHERS = {
    "curly": ("cp1252", "Q,A\nI don’t know what to do,That’s all right\nIt’s late,“Good” night\n"),
    "german": ("cp1252", "Q,A\nGrüße,Schöne Grüße\nÜber Größe?,Müßig\n"),
    "japanese": ("euc_jp", JAPANESE),
    "japanese-windows": ("shift_jis", JAPANESE),
    "chinese": ("gb18030", CHINESE),
    "russian": ("cp1251", "Q,A\nПривет,Как дела?\nЧто ты делаешь?,Ничего\n"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_korean_is_not_read_as_korean(pairs, error_of, written, tmp_path, kind):
    encoding, text = OTHERS[kind]
    path = written(tmp_path / "chats.csv", text.encode(encoding))
    message = error_of(path)
    question, answer = text.splitlines()[1].split(",")
    assert "chats.csv, row 2: the text is not UTF-8" in message and "--encoding" in message
    assert f"\n  {encoding}: {question},{answer}"[:40] in message
    assert pairs(path, encoding=encoding)[0] == (question, answer)
    # Not even one Korean encoding among the others is chosen if the bytes are valid in it.
    assert "2 of 2 rows" in error_of(path, encoding="ascii")


@pytest.mark.parametrize(
    "text", ["Q,A\nwhere is the café?,here\n", "Q,A\n뚱딴지,ㅋㅋ\n"], ids=["one-letter", "two-syllables"]
)
def test_too_little_to_judge_by_is_not_guessed(error_of, written, tmp_path, text):
    encoding = "cp949" if "ㅋ" in text else "cp1252"
    assert f"\n  {encoding}: " in error_of(written(tmp_path / "chats.csv", text.encode(encoding)))


def test_japanese_of_seven_bits(pairs, written, tmp_path, caplog):
    assert pairs(written(tmp_path / "chats.csv", JAPANESE.encode("iso2022_jp")))[0][0] == "今日はいい天気ですね"
    assert "read as iso2022_jp" in caplog.text


@pytest.mark.parametrize("encoding", ["cp994", "rot13", "hex", ""])
def test_an_unknown_encoding(error_of, written, tmp_path, encoding):
    message = error_of(written(tmp_path / "chats.csv", KOREAN), encoding=encoding)
    assert f"no text encoding {encoding!r}" in message and "cp949" in message
