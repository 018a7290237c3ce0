"""A file or a folder is complete or not there, whatever happens while it is written."""

import fcntl
import json
import math
import os
import signal
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest

from chatformer.storage.explaining import StorageError
from chatformer.storage.writing import (
    append_json_line,
    check_output_file,
    check_output_folder,
    flush,
    replace_folder,
    whole_file,
    whole_folder,
    write_json,
    write_text,
)

KILLED = """
import os, signal, sys
from pathlib import Path
from chatformer.storage.writing import whole_file

with whole_file(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def content_of(folder):
    return {path.name: path.read_text("utf-8") for path in folder.iterdir()}


def test_a_file_is_replaced_at_the_end_and_not_before(tmp_path):
    file = tmp_path / "log"
    file.write_text("old")
    with whole_file(file) as partial:
        partial.write_text("new")
        assert file.read_text() == "old"
        # Only within one file system is a rename atomic.
        assert partial.parent == tmp_path
    assert content_of(tmp_path) == {"log": "new"}


def test_an_error_leaves_the_old_file_and_no_other(tmp_path):
    file = tmp_path / "log"
    file.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole_file(file) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert content_of(tmp_path) == {"log": "old"}


def test_a_process_that_is_killed_leaves_the_old_file(tmp_path):
    file = tmp_path / "log"
    file.write_text("old")
    process = subprocess.run([sys.executable, "-c", KILLED, str(file)])
    assert process.returncode == -signal.SIGKILL
    assert file.read_text() == "old"


def test_what_is_renamed_is_on_the_disk_by_then(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("rename"), replace(*paths)))
    write_text(tmp_path / "one", "1")
    # The file, its new name, and the folder that has the name.
    assert events == ["fsync", "rename", "fsync"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "file", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_json(link, {"ㄱ": 1})
    assert link.is_symlink()
    assert content_of(tmp_path / "there") == {"file": '{\n  "ㄱ": 1\n}\n'}


def test_json_has_no_infinite_numbers(tmp_path):
    def refuse(word):
        raise ValueError(f"{word} is not JSON")

    content = {"norm": math.inf, "figures": [-math.inf, {"loss": math.nan}, (1.5, True, None)], "step": 1}
    write_json(tmp_path / "record.json", content)
    append_json_line(tmp_path / "log.jsonl", content)
    for name in ("record.json", "log.jsonl"):
        read = json.loads((tmp_path / name).read_text("utf-8"), parse_constant=refuse)
        assert read == {"norm": None, "figures": [None, {"loss": None}, [1.5, True, None]], "step": 1}
    write_json(tmp_path / "figures.json", {"file": tmp_path, "ratio": math.inf}, default=str)
    assert json.loads((tmp_path / "figures.json").read_text("utf-8")) == {"file": str(tmp_path), "ratio": None}


def test_files_are_flushed_where_only_what_is_open_for_writing_can_be(tmp_path, monkeypatch):
    flushed = []

    def as_on_windows(descriptor):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY and not os.path.isdir(
            f"/proc/self/fd/{descriptor}"
        ):
            raise OSError(9, "Bad file descriptor")
        flushed.append(descriptor)

    monkeypatch.setattr(os, "fsync", as_on_windows)
    write_text(tmp_path / "one", "1")
    assert flushed and (tmp_path / "one").read_text() == "1"


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    write_text(pipe, "through")
    reader.join(timeout=10)
    assert read == ["through"] and pipe.is_fifo()


@pytest.mark.parametrize("is_there", [False, True])
def test_a_folder_appears_at_the_end(tmp_path, is_there):
    folder = tmp_path / "a" / "b" / "model"
    if is_there:
        folder.mkdir(parents=True)
    with whole_folder(folder) as partial:
        (partial / "config.json").write_text("{}")
        assert not folder.exists() or not any(folder.iterdir())
    assert content_of(folder) == {"config.json": "{}"}
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("error", "raised"),
    [(OSError(28, "No space left on device"), StorageError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_after_an_error_no_part_of_a_folder_is_left(tmp_path, error, raised):
    with pytest.raises(raised) as found, whole_folder(tmp_path / "a" / "b" / "model") as partial:
        (partial / "config.json").write_text("{}")
        raise error
    assert list(tmp_path.iterdir()) == []
    if raised is StorageError:
        assert "could not be written, and nothing is left" in str(found.value) and "No space" in str(found.value)


def test_nothing_that_is_there_is_overwritten(tmp_path):
    (tmp_path / "notes").write_text("mine")
    for path, message in ((tmp_path, "is not empty"), (tmp_path / "notes", "is a file")):
        with pytest.raises(StorageError, match=message), whole_folder(path):
            raise AssertionError
    assert content_of(tmp_path) == {"notes": "mine"}


def test_a_complete_folder_replaces_an_older_one(tmp_path):
    for name, text in (("partial", "new"), ("place", "old"), ("place.outdated", "older")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state").write_text(text)
    flush(tmp_path / "partial")
    replace_folder(tmp_path / "partial", tmp_path / "place")
    assert [path.name for path in tmp_path.iterdir()] == ["place"]
    assert content_of(tmp_path / "place") == {"state": "new"}


@pytest.fixture
def may_not_write(monkeypatch):
    """Return a function that takes the permission to write into a folder, which the root user always has."""

    def take(folder):
        has_access = os.access

        def access(path, mode):
            return has_access(path, mode) and not (mode & os.W_OK and str(path) == str(folder))

        monkeypatch.setattr(os, "access", access)

    return take


def test_where_no_folder_can_be_written_is_said_before_work_begins(tmp_path, may_not_write):
    check_output_folder(tmp_path / "new" / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file is a file; give a folder"):
        check_output_folder(tmp_path / "file")
    with pytest.raises(StorageError, match=r"run cannot be made: .*/file is a file; give"):
        check_output_folder(tmp_path / "file" / "new" / "run")
    may_not_write(tmp_path)
    for path in (tmp_path, tmp_path / "new" / "run"):
        with pytest.raises(StorageError, match=rf"{path} cannot be written: this user may not write into {tmp_path}"):
            check_output_folder(path)


def test_where_no_file_can_be_written_is_said_before_work_begins(tmp_path, may_not_write):
    (tmp_path / "link").symlink_to("there")
    for path in (tmp_path / "new", tmp_path / "link", os.devnull):
        check_output_file(path)
    with pytest.raises(StorageError, match=r"is a folder\. Give the name of a file"):
        check_output_file(tmp_path)
    with pytest.raises(StorageError, match=r"There is no folder .*/missing for --output-file"):
        check_output_file(tmp_path / "missing" / "a.json")
    may_not_write(tmp_path)
    with pytest.raises(StorageError, match=r"new cannot be written: this user may not write there"):
        check_output_file(tmp_path / "new")
    check_output_file(os.devnull)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such permissions")
def test_weights_are_readable_by_whoever_may_read_the_files_beside_them(tmp_path):
    from safetensors.numpy import save_file

    umask = os.umask(0o027)
    try:
        with whole_folder(tmp_path / "model") as folder:
            save_file({"a": np.zeros(2)}, folder / "model.safetensors")
            (folder / "config.json").write_text("{}")
    finally:
        os.umask(umask)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "model").iterdir()}
    assert modes == {"model.safetensors": 0o640, "config.json": 0o640}
