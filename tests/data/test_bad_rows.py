import json
import logging

import datasets
import pytest

from chatformer.data.conversations import load_conversations
from chatformer.data.messages import DataError

GREETING = [{"role": "user", "content": "안녕"}, {"role": "assistant", "content": "반가워요"}]


def test_only_the_first_bad_rows_are_listed(error_of, written, tmp_path):
    message = error_of(written(tmp_path / "chats.csv", "Q,A\n안녕,네\n" + "안녕,\n" * 9))
    assert "9 of 10 rows" in message
    assert message.count(", row ") == 5
    assert "4 more" in message
    assert "--skip-bad-rows" in message and "Fix" in message


def test_bad_rows_are_written_and_left_out(written, tmp_path, caplog):
    good = json.dumps({"Q": "안녕", "A": "반가워요"}).encode()
    lines = [good, "{고장".encode(), b'{"Q": "\xff", "A": "x"}', b'{"Q": "a", "A": ""}']
    path = written(tmp_path / "chats.jsonl", b"\n".join(lines))
    bad = tmp_path / "new" / "bad.jsonl"
    with caplog.at_level(logging.WARNING):
        loaded = load_conversations(path, skip_bad_rows=True)
        assert loaded.conversations.to_list() == [{"messages": GREETING}]
        assert not caplog.records and not bad.parent.exists()
        loaded.bad_rows.report(bad)
    rows = [json.loads(line) for line in bad.read_text(encoding="utf-8").splitlines()]
    assert all(list(row) == ["file", "row", "reason", "content"] for row in rows)
    assert [(row["file"], row["row"]) for row in rows] == [(str(path), 2), (str(path), 3), (str(path), 4)]
    assert "no valid JSON" in rows[0]["reason"] and rows[0]["content"] == "{고장"
    assert rows[1]["reason"] == "the byte 0xFF is not utf-8" and rows[1]["content"] == '{"Q": "\\xFF", "A": "x"}'
    assert rows[2]["reason"] == "the answer is empty"
    assert [entry.name for entry in bad.parent.iterdir()] == ["bad.jsonl"]
    (record,) = [record for record in caplog.records if record.name == "chatformer.data.bad_rows"]
    assert "3 of 4 rows" in record.getMessage() and str(bad) in record.getMessage()


def test_bad_records_are_written_as_text(tmp_path):
    bad = tmp_path / "bad.jsonl"
    records = datasets.Dataset.from_dict({"Q": ["안녕", None], "A": ["네", "네"]})
    load_conversations(records, skip_bad_rows=True).bad_rows.report(bad)
    row = json.loads(bad.read_text(encoding="utf-8"))
    assert row["row"] == 2 and json.loads(row["content"]) == {"Q": None, "A": "네"}


def test_no_bad_row_no_file(written, tmp_path):
    path = written(tmp_path / "chats.csv", "Q,A\n안녕,네\n")
    load_conversations(path, skip_bad_rows=True).bad_rows.report(tmp_path / "bad.jsonl")
    assert [entry.name for entry in tmp_path.iterdir()] == ["chats.csv"]


def test_nothing_but_bad_rows(error_of, written, tmp_path):
    for name, content in {"a.csv": "Q,A\n,네\n안녕,\n", "b.csv": "Q,A\n1\n2\n", "c.jsonl": "{\n{\n"}.items():
        message = error_of(written(tmp_path / name, content), skip_bad_rows=True)
        assert "2 of 2 rows" in message and "No row is left" in message


def test_bad_rows_never_overwrite_the_data(written, tmp_path):
    path = written(tmp_path / "chats.csv", "Q,A\n안녕,네\n안녕,\n")
    bad_rows = load_conversations(path, skip_bad_rows=True).bad_rows
    with pytest.raises(DataError, match="over the data"):
        bad_rows.report(tmp_path / "." / "chats.csv")
    assert path.read_text(encoding="utf-8").startswith("Q,A")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        bad_rows.report(tmp_path / "folder")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["chats.csv", "folder"]


@pytest.mark.parametrize("with_bad_rows", ["q.txt", "a.txt"])
def test_neither_of_two_parallel_files_is_overwritten(written, tmp_path, monkeypatch, with_bad_rows):
    monkeypatch.chdir(tmp_path)
    for name in ("q.txt", "a.txt"):
        written(tmp_path / name, "\n둘\n" if name == with_bad_rows else "하나\n둘\n")
    bad_rows = load_conversations(["q.txt", "a.txt"], skip_bad_rows=True).bad_rows
    for name in ("q.txt", "a.txt"):
        with pytest.raises(DataError, match="over the data"):
            bad_rows.report(tmp_path / name)


def test_without_a_file_bad_rows_are_reported_all_the_same(written, tmp_path, caplog):
    path = written(tmp_path / "chats.csv", "Q,A\n안녕,네\n안녕,\n")
    with caplog.at_level(logging.WARNING):
        load_conversations(path, skip_bad_rows=True).bad_rows.report(None)
    assert "1 of 2 rows cannot be used and are left out" in caplog.text
