"""What is read is what was written, and a broken file is named."""

import json

import pytest

from chatformer.storage.explaining import StorageError, explained, first_few
from chatformer.storage.reading import read_json_lines, read_structure
from chatformer.storage.writing import append_json_line

LINES = [
    # All of these characters end a line for splitlines().
    {"step": 1, "samples": [{"source": "one\u2028line", "reply": "a\x85b\u2029c\x1dd\r\n"}]},
    {"step": 2, "samples": [{"source": "안녕", "reply": "네 😀"}]},
    {"step": 3},
]


@pytest.fixture
def log(tmp_path):
    for line in LINES:
        append_json_line(tmp_path / "log.jsonl", line)
    return tmp_path / "log.jsonl"


def test_lines_end_where_they_were_ended_and_nowhere_else(log, tmp_path):
    assert read_json_lines(log) == LINES
    assert read_json_lines(tmp_path / "none.jsonl") == []


def test_a_log_that_is_torn_anywhere_has_the_lines_before(log):
    content = log.read_bytes()
    for length in range(len(content)):
        log.write_bytes(content[:length])
        num_complete = content[:length].count(b"\n")
        lines = read_json_lines(log)
        # Without its end, a line may be complete all the same.
        assert lines in (LINES[:num_complete], LINES[: num_complete + 1])


@pytest.mark.parametrize("line", ["[1]", "3", "null", "[" * 100_000, "\x00"])
def test_a_line_that_is_no_object_ends_the_log(log, line):
    text = log.read_text("utf-8")
    log.write_text(f"{text}{line}\n{text}", "utf-8")
    assert read_json_lines(log) == LINES


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"{", "a.json could not be read: Expecting"),
        ("a.json", b"[1]", "a.json must hold names and values, but it holds a list"),
        ("a.json", b"\xff", "a.json could not be read: 'utf-8' codec"),
        ("a.json", b"[" * 100_000, "a.json could not be read"),
        ("a.yaml", b"a: [", "a.yaml could not be read: "),
        ("a.yaml", b"a", "a.yaml must hold names and values, but it holds a str"),
        ("a.json", None, "a.json could not be read: .*No such file"),
    ],
)
def test_a_broken_structure_is_named_in_one_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(StorageError, match=message) as found:
        read_structure(tmp_path / name)
    assert len(str(found.value).splitlines()) == 1
    with pytest.raises(StorageError, match=f"^{name} of my/bot "):
        read_structure(tmp_path / name, f"{name} of my/bot")


def test_json_and_yaml_are_told_by_the_ending(tmp_path):
    (tmp_path / "a.yaml").write_text("size: tiny\n안녕: [1]\n", "utf-8")
    (tmp_path / "a.json").write_text(json.dumps({"size": "tiny", "안녕": [1]}), "utf-8")
    assert read_structure(tmp_path / "a.yaml") == read_structure(tmp_path / "a.json") == {"size": "tiny", "안녕": [1]}


def test_errors_are_explained_once_and_a_missing_key_is_a_sentence():
    with (
        pytest.raises(StorageError, match=r"^the file is broken: there is no 'weight_map'$"),
        explained("the file is broken"),
    ):
        raise KeyError("weight_map")
    with pytest.raises(StorageError, match=r"^inner: said$"), explained("outer"), explained("inner"):
        raise ValueError("said\nand advice")
    with pytest.raises(KeyboardInterrupt), explained("the file is broken"):
        raise KeyboardInterrupt


def test_long_lists_of_names_are_cut():
    assert first_few(["a", "b", "c"]) == "a, b, c"
    assert first_few(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
