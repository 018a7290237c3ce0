"""A run's records are read as they were written, and a folder without any is an empty record."""

import shutil
from pathlib import Path

import pytest

from chatformer.storage.explaining import StorageError
from chatformer.storage.run_folder import Records, is_finished

WRITTEN = Path(__file__).parents[1] / "data" / "version_0_1"


def test_a_run_is_read(tmp_path):
    records = Records.read(WRITTEN / "run")
    assert records.settings["max_steps"] == records.record["steps_taken"] == records.log[-1]["step"] == 200
    assert records.config["d_model"] == 32 and records.evaluation["figures"]["all"] and records.has_curves
    assert records.conversion == {}
    last = [line["samples"] for line in records.log if "samples" in line][-1]
    assert records.questions()[:3] == [sample["source"] for sample in last]
    assert len(records.questions()) == len(set(records.questions())) > 3


def test_what_is_not_there_is_empty(tmp_path):
    assert Records.read(tmp_path) == Records(
        config={}, settings={}, record={}, log=[], evaluation={}, conversion={}, has_curves=False
    )


def test_the_latest_questions_come_first_and_each_once(tmp_path):
    log = [
        {"step": step, "samples": [{"source": source, "reply": "?"} for source in sources]}
        for step, sources in ((1, ("a", "b")), (2, ("c", "a")), (3, ()))
    ]
    assert Records(**{**vars(Records.read(tmp_path)), "log": log}).questions() == ["c", "a", "b"]


@pytest.mark.parametrize("samples", [3, [3], [{}], [{"source": 1, "reply": "x"}], None])
def test_samples_of_another_form_are_skipped(tmp_path, samples):
    empty = Records.read(tmp_path)
    log = [{"samples": samples}, {"samples": [{"source": "hi", "reply": "you", "reference": "me"}]}]
    assert Records(**{**vars(empty), "log": log}).questions() == ["hi"]


def test_a_broken_record_is_named(tmp_path):
    shutil.copytree(WRITTEN / "run", tmp_path, dirs_exist_ok=True)
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(StorageError, match=r"evaluation\.json could not be read"):
        Records.read(tmp_path)


def test_a_run_is_finished_only_if_its_record_says_so(tmp_path):
    assert is_finished(WRITTEN / "run")
    assert not is_finished(WRITTEN / "interrupted")
    assert not is_finished(tmp_path)
    for broken in ("{", "[]", "{}"):
        (tmp_path / "training_record.json").write_text(broken)
        assert not is_finished(tmp_path)
