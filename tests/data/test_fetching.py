import gzip
import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import pytest

from chatformer.data.conversations import load_conversations

RECORDS = [{"Q": "안녕", "A": "반가워요", "label": 0}, {"Q": "뭐 해?", "A": "쉬어요", "label": 1}]
PAIRS = [("안녕", "반가워요"), ("뭐 해?", "쉬어요")]
TABLE = "Q,A,label\n안녕,반가워요,0\n뭐 해?,쉬어요,1\n"


def test_missing_files(pairs, error_of, written, tmp_path, monkeypatch):
    written(tmp_path / "ChatbotData.csv", TABLE)
    message = error_of(tmp_path / "ChatBotData.csv")
    assert str(tmp_path / "ChatBotData.csv") in message
    assert f"Did you mean {tmp_path / 'ChatbotData.csv'}?" in message
    assert "Did you mean" not in error_of(tmp_path / "zzz")
    assert f"nor a directory {tmp_path / 'none'}" in error_of(tmp_path / "none" / "x.csv")
    monkeypatch.chdir(tmp_path)
    assert "There is no file" in error_of("chats.csv")
    # These look like ids of Hub datasets, but an ending or a folder tells that files are meant.
    (tmp_path / "data").mkdir()
    assert "nor a directory" in error_of("user/chats.csv")
    assert "Check the path" in error_of("data/chats")
    assert pairs("./ChatbotData.csv") == PAIRS
    monkeypatch.setenv("HOME", str(tmp_path))
    assert pairs("~/ChatbotData.csv") == PAIRS


def test_files_that_are_none(error_of, written, tmp_path):
    written(tmp_path / "chats.csv", TABLE)
    message = error_of(tmp_path)
    assert "is a directory" in message and "chats.csv" in message
    assert "empty.csv is empty" in error_of(written(tmp_path / "empty.csv", ""))
    assert "blank.json is empty" in error_of(written(tmp_path / "blank.json", "\n \n"))
    assert "empty.csv.gz is empty" in error_of(written(tmp_path / "empty.csv.gz", gzip.compress(b"")))
    assert "no conversations" in error_of(written(tmp_path / "header.csv", "Q,A\n"))
    assert "no conversations" in error_of(datasets.Dataset.from_dict({"Q": [], "A": []}))
    assert "files that can be read" in error_of(written(tmp_path / "chats.docm", b"Q,A\n"))
    assert "row 2: a NUL byte" in error_of(written(tmp_path / "binary.csv", b"Q,A\n\x00\x01"))
    packed = gzip.compress(TABLE.encode())
    assert "broken gzip" in error_of(written(tmp_path / "cut.csv.gz", packed[:-9]))
    assert "broken gzip" in error_of(written(tmp_path / "turned.csv.gz", packed[:20] + packed[20:][::-1]))


@pytest.mark.parametrize("name", ["chats.csv", "chats.jsonl", "chats.parquet", "chats.xlsx", "chats.txt"])
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\n\n<!DOCTYPE html>\n<html><body>Q,A</body></html>", "is a web page"),
        (b"\xef\xbb\xbf<HTML><body>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "is a Git LFS pointer"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is XML"),
        (b"\x89PNG\r\n\x1a\n\x00", "is a picture"),
        (b"404: Not Found", "did not find the file"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an old Excel file, or one with a password"),
    ],
)
def test_what_is_saved_under_the_name_of_data(error_of, written, tmp_path, name, content, kind):
    message = error_of(written(tmp_path / name, content))
    assert f"{name} is " in message and kind in message
    other = written(tmp_path / "answers.txt", "네\n")
    assert kind in error_of([written(tmp_path / "questions.txt", content), other])


def test_tables_under_the_name_of_text(error_of, written, tmp_path):
    datasets.Dataset.from_list(RECORDS).to_parquet(tmp_path / "chats.csv")
    assert "chats.csv is Parquet: let its name end in .parquet" in error_of(tmp_path / "chats.csv")
    assert "end in .xlsx" in error_of(written(tmp_path / "chats.tsv", b"PK\x03\x04\x00"))


def test_the_checksum_of_a_file(pairs, error_of, written, tmp_path):
    path = written(tmp_path / "chats.csv", TABLE)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert pairs(path, sha256=found.upper()) == PAIRS
    message = error_of(path, sha256="ab" * 32)
    assert found in message and "ab" * 32 in message and "get it again" in message


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[tuple[str, Path]]:
    """Serve a folder on 127.0.0.1, with a cache of its own for what is downloaded."""
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=folder))
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.02), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_url(pairs, error_of, written, server, tmp_path):
    address, folder = server
    written(folder / "chats.csv", TABLE)
    (folder / "chats.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, RECORDS)).encode()))
    datasets.Dataset.from_list(RECORDS).to_parquet(folder / "chats.parquet")
    for name in ("chats.csv", "chats.csv?raw=1", "chats.jsonl.gz", "chats.parquet"):
        assert pairs(f"{address}/{name}") == PAIRS
    written(folder / "bad.csv", "Q,A\n안녕,\n")
    assert f"{address}/bad.csv, row 2" in error_of(f"{address}/bad.csv")
    assert any((tmp_path / "cache").iterdir())


def test_the_checksum_of_a_url(pairs, error_of, written, server):
    address, folder = server
    content = TABLE.encode()
    written(folder / "chats.csv", content + "새 줄,네,2\n".encode())
    expected = hashlib.sha256(content).hexdigest()
    message = error_of(f"{address}/chats.csv", sha256=expected)
    assert expected in message and hashlib.sha256((folder / "chats.csv").read_bytes()).hexdigest() in message
    # A wrong download is not kept for good, and a right one is not asked for again.
    written(folder / "chats.csv", content)
    assert pairs(f"{address}/chats.csv", sha256=expected) == PAIRS
    (folder / "chats.csv").unlink()
    assert pairs(f"{address}/chats.csv", sha256=expected) == PAIRS


def test_a_url_that_cannot_be_had(error_of, server):
    address, _ = server
    message = error_of(f"{address}/none.csv")
    assert f"{address}/none.csv" in message and "404" in message and "pass the file" in message
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/chats.csv"
        message = error_of(url)
    assert url in message and "pass the file" in message and "Connect" in message


def test_a_hub_dataset(pairs, error_of, monkeypatch):
    asked = []

    def load_dataset(dataset_id, *, split, revision, streaming):
        asked.append((dataset_id, split, revision))
        stored = datasets.Dataset.from_list(RECORDS)
        return stored.to_iterable_dataset() if streaming else stored

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert pairs("user/chats") == PAIRS
    assert pairs(["user/chats.v2"], split="test", revision="abc") == PAIRS
    assert asked == [("user/chats", "train", None), ("user/chats.v2", "test", "abc")]
    assert pairs("user/chats", streaming=True) == PAIRS
    assert "revision" in error_of("user/chats", sha256="0" * 64)


def test_a_hub_dataset_that_cannot_be_had(error_of, monkeypatch):
    def load_dataset(dataset_id, *, split, revision, streaming):
        raise ConnectionError("Couldn't reach the Hub.")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    message = error_of("user/chats", split="dev", revision="abc")
    for part in ("user/chats", "dev", "abc", "ConnectionError: Couldn't reach the Hub. Check", "network"):
        assert part in message


def test_a_revision_of_a_file_is_reported(written, tmp_path, caplog):
    load_conversations(written(tmp_path / "chats.csv", TABLE), revision="abc")
    assert "revision abc is not used" in caplog.text
