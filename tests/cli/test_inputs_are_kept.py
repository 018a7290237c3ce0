"""No command overwrites what it reads: data, validation and training data, and the files of a model."""

import os

import pytest

from chatformer.cli.main import VERBS, run


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Go to a folder with data, links to it and a model, whose files are only looked at, and return their contents."""
    monkeypatch.chdir(tmp_path)
    for name in ("model", "checks"):
        (tmp_path / name).mkdir()
    for name in (
        "q.txt",
        "a.csv",
        "b.csv",
        "model/config.json",
        "model/run.csv",
        "model/doctor.json",
    ):
        (tmp_path / name).write_text(f"{name},answer\n", "utf-8")
    (tmp_path / "model" / "training_settings.yaml").write_text("data: model/run.csv\n", "utf-8")
    os.link(tmp_path / "q.txt", tmp_path / "hard.txt")
    (tmp_path / "soft.txt").symlink_to("q.txt")
    (tmp_path / "checks" / "lengths.png").symlink_to(tmp_path / "b.csv")
    (tmp_path / "model" / "linked.png").symlink_to("config.json")
    return contents(tmp_path)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("verb", "arguments", "found"),
    [
        ("generate", "model --data q.txt --output-file q.txt", "q.txt, which belongs to --data"),
        ("generate", "model --data soft.txt --output-file hard.txt", "same file as soft.txt, which belongs to --data"),
        ("generate", "model --data q.txt --output-file ./model/config.json", "belongs to the model in model"),
        ("generate", "model --data q.txt --output-file model/doctor.json", "belongs to the model in model"),
        (
            "generate",
            "other --rerank-by model --data q.txt --output-file model/config.json",
            "belongs to the model in model",
        ),
        ("evaluate", "model --data a.csv b.csv --output-file b.csv", "b.csv, which belongs to --data"),
        ("evaluate", "model --data a.csv --training-data b.csv --output-file b.csv", "belongs to --training-data"),
        ("evaluate", "model --output-file model/run.csv", "belongs to the data of the run"),
        ("evaluate", "model --data a.csv --output-file model/config.json", "belongs to the model in model"),
        ("plot", "tokens model --output-file model/linked.png", "model/linked.png, which is the same file as"),
        ("doctor", "a.csv b.csv --output-dir checks", "checks/lengths.png, which is the same file as b.csv"),
        ("doctor", "a.csv --validation-data b.csv --output-dir checks", "belongs to --validation-data"),
        ("doctor", "model --data b.csv --output-dir checks", "belongs to --data"),
        ("doctor", "model/doctor.json --output-dir model", "model/doctor.json, which belongs to what is examined"),
    ],
)
def test_an_output_that_is_an_input_is_refused(files, tmp_path, capsys, verb, arguments, found):
    assert run(VERBS[verb], arguments.split(), program=f"chatformer {verb}") == 2
    message = capsys.readouterr().err
    assert message.startswith("error: What a command reads is never overwritten, but it would write ")
    assert found in message and message.endswith((" Give another --output-file.\n", " Give another --output-dir.\n"))
    assert contents(tmp_path) == files


def test_a_list_of_bad_rows_is_an_output_too(files, tmp_path, capsys):
    (tmp_path / "bad_training_rows.jsonl").write_text('{"question": "a", "answer": "b"}\n', "utf-8")
    flags = "model --data a.csv --training-data bad_training_rows.jsonl --output-file new.json --skip-bad-rows"
    assert run(VERBS["evaluate"], flags.split(), program="chatformer evaluate") == 2
    assert "would write bad_training_rows.jsonl, which belongs to --training-data" in capsys.readouterr().err
