"""What a command reads is never overwritten, by whatever path or link it is reached."""

import io
import os
from pathlib import Path

import pytest

from chatformer.storage.explaining import StorageError
from chatformer.storage.keeping import check_kept, is_same_file, model_files, standard_input
from chatformer.storage.writing import remove_together, whole_folder


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    file = tmp_path / "data.csv"
    file.write_text("question,answer\n", "utf-8")
    (tmp_path / "symbolic.csv").symlink_to(file)
    os.link(file, tmp_path / "hard.csv")
    (tmp_path / "linked").symlink_to(tmp_path)
    return file


@pytest.mark.parametrize(
    "other", ["data.csv", "folder/../data.csv", "symbolic.csv", "hard.csv", "linked/data.csv", "linked/symbolic.csv"]
)
def test_a_file_is_found_by_every_path_and_link(data, other):
    # The output may be the link, or the input.
    for output, read in ((data, data.parent / other), (data.parent / other, data)):
        with pytest.raises(StorageError, match=r"never overwritten.*--data.*another --output-file"):
            check_kept([output], {"--data": [read]}, flag="--output-file")


def test_other_files_may_be_written(data, tmp_path):
    (tmp_path / "copy.csv").write_bytes(data.read_bytes())
    check_kept([tmp_path / "copy.csv", tmp_path / "new.csv"], {"--data": [data, tmp_path / "gone"]}, flag="--to")
    assert not is_same_file(tmp_path, tmp_path)
    # A device holds nothing that could be lost.
    check_kept([Path("/dev/null")], {"--data": [Path("/dev/null")]}, flag="--to")


def test_standard_input_may_be_a_file(data, monkeypatch):
    with data.open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        with pytest.raises(StorageError, match="belongs to standard input"):
            check_kept([data], {"standard input": standard_input()}, flag="--output-file")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert standard_input() == []


def test_a_command_keeps_what_others_wrote_into_the_folder_of_a_model(tmp_path):
    (tmp_path / "checkpoint-7").mkdir()
    names = ["config.json", "model.safetensors", "evaluation.json", "doctor.json", "replies.txt", "checkpoint-7/a.bin"]
    for name in names:
        (tmp_path / name).write_text("x")
    others = {"config.json", "model.safetensors", "checkpoint-7/a.bin"}

    def kept_by(command):
        return {path.relative_to(tmp_path).as_posix() for path in model_files(tmp_path, command=command)}

    assert kept_by("generate") == others | {"evaluation.json", "doctor.json"}
    assert kept_by("evaluate") == others | {"doctor.json"}
    assert kept_by("doctor") == others | {"evaluation.json"}
    assert model_files("author/model-on-the-hub", command="generate") == []


def test_files_are_removed_together_or_not_at_all(data, tmp_path):
    paths = [tmp_path / name for name in ("data.csv", "linked", "folder", "gone.csv")]
    before = sorted(tmp_path.iterdir())
    with pytest.raises(StorageError, match=r"gone.csv cannot be removed .* and nothing was removed"):
        remove_together(paths, tmp_path / "waiting")
    assert sorted(tmp_path.iterdir()) == before
    remove_together(paths[:-1], tmp_path / "waiting")
    # The other name of the file is still there, as is what the link led to.
    assert {path.name for path in tmp_path.iterdir()} == {"hard.csv", "symbolic.csv"}


def test_a_folder_behind_a_link_is_written_and_the_link_stays(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    with whole_folder(tmp_path / "link") as folder:
        (folder / "file").write_text("x")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk" / "file").read_text() == "x"
