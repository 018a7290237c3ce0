import json
import os
import shutil

import pytest

from chatformer.evaluation.doctor.run_log import RunLog
from chatformer.evaluation.plots.curves import draw_curves
from chatformer.storage.reading import read_json_lines
from chatformer.training.checkpoints import checkpoints
from chatformer.training.output import RunFolder


def test_a_line_of_the_log_ends_where_it_was_ended_and_nowhere_else(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / "training_settings.yaml").write_text("max_steps: 3\n", "utf-8")
    # All of these are ends of lines to splitlines().
    said = [{"source": "one\u2028line", "reply": "a\x85b\u2029c\x1dd\r\n"}]
    lines = [{"step": step, "loss": 1.0, "learning_rate": 1.0, "samples": said} for step in (1, 2, 3)]
    for line in lines:
        folder.log(line)
    assert read_json_lines(tmp_path / "training_log.jsonl") == RunLog.of(tmp_path).lines == lines
    draw_curves(tmp_path / "training_log.jsonl", tmp_path / "curves.png")
    with (tmp_path / "training_log.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"step": 2, "samples": [{"source": "torn\u2028')
    folder._cut_log(2)
    assert read_json_lines(tmp_path / "training_log.jsonl") == lines[:2]


@pytest.fixture(scope="module")
def short_run(flags, train, tmp_path_factory):
    """Return the folder of a run of two steps, which is evaluated at its end."""
    folder = tmp_path_factory.mktemp("short") / "run"
    assert train(flags(folder, max_steps=2, max_eval_replies=0)) == 0
    return folder


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_only_what_a_run_wrote_is_removed(short_run, flags, train, conversations_file, tmp_path, monkeypatch):
    folder = shutil.copytree(short_run, tmp_path / "run")
    shutil.copy(conversations_file, folder / "my_data.jsonl")
    for name in ("notes.md", "my_model.py", "photo.png", "vocab.json", ".git/HEAD", "exported/model.bin"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine", "utf-8")
    # A checkpoint was moved to another disk, and copied under another name.
    disk = shutil.copytree(folder / "checkpoint-2", tmp_path / "disk")
    (folder / "checkpoint-2").rename(folder / "checkpoint-2-best")
    for name in ("checkpoint-1", "linked"):
        (folder / name).symlink_to(disk)
    # What a killed run leaves.
    (folder / "publishing.partial").mkdir()
    (folder / ".training_record.json.123.partial").write_text("{")
    before, on_disk = contents(folder), contents(disk)

    monkeypatch.chdir(folder)
    plan = {"data": "my_data.jsonl", "max_steps": 1, "max_eval_replies": 0}
    assert train([*flags(".", **plan), "--overwrite-output-dir"]) == 0
    after = contents(folder)
    mine = {name for name in before if before[name] == b"mine" or name.startswith(("my_data", "checkpoint-2-best/"))}
    assert len(mine) > 8 and {name: after.get(name) for name in mine} == {name: before[name] for name in mine}
    assert (folder / "linked").is_symlink() and contents(disk) == on_disk
    assert [path.name for path in checkpoints(folder) if not path.is_symlink()] == ["checkpoint-1"]
    assert not [path for path in folder.rglob("*") if "partial" in path.name]
    assert json.loads(after["training_record.json"])["steps_taken"] == 1


@pytest.mark.parametrize("name", ["bad_rows.jsonl", "training_log.jsonl", "checkpoint-2/data.jsonl"])
@pytest.mark.parametrize("link", [shutil.copy, os.symlink, os.link])
def test_a_run_neither_removes_nor_overwrites_what_it_reads(
    short_run, flags, train, conversations_file, tmp_path, capsys, name, link
):
    folder = shutil.copytree(short_run, tmp_path / "run")
    data = shutil.copy(conversations_file, tmp_path / "data.jsonl")
    (folder / name).unlink(missing_ok=True)
    link(data, folder / name)
    before = contents(folder)
    read = folder / name if link is shutil.copy else data
    for option, more in (("data", "--overwrite-output-dir"), ("validation_data", "--resume")):
        assert train([*flags(folder, max_steps=2, max_eval_replies=0, **{option: read}), more]) == 2
        message = capsys.readouterr().err.splitlines()[-1]
        assert message.startswith("error: What a command reads is never overwritten")
        assert f"{folder / name}" in message and f"belongs to --{option.replace('_', '-')}." in message
    assert contents(folder) == before and data.read_bytes() == conversations_file.read_bytes()


def test_a_recipe_is_kept(short_run, train, capsys, tmp_path):
    folder = shutil.copytree(short_run, tmp_path / "run")
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("recipe: run/training_settings.yaml\nmax_steps: 1\n", "utf-8")
    assert train(["--recipe", recipe, "--output-dir", folder, "--overwrite-output-dir"]) == 2
    assert "belongs to --recipe" in capsys.readouterr().err


def test_a_note_in_a_checkpoint_is_kept(short_run, flags, train, capsys, tmp_path):
    folder = shutil.copytree(short_run, tmp_path / "run")
    (folder / "checkpoint-2" / "notes.md").write_text("mine", "utf-8")
    assert train([*flags(folder, max_steps=1), "--overwrite-output-dir"]) == 2
    assert "checkpoint-2/notes.md" in capsys.readouterr().err
    # The checkpoint is written again, then followed by the only one to keep.
    assert train(["--output-dir", folder, "--resume"]) == 0
    longer = ["--resume-changed", "--max-steps", 3, "--save-total-limit", 1]
    assert train(["--output-dir", folder, "--resume", *longer]) == 0
    assert [path.name for path in checkpoints(folder)] == ["checkpoint-3", "checkpoint-2"]
    assert (folder / "checkpoint-2" / "notes.md").read_text("utf-8") == "mine"
