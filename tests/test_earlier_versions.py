"""What an earlier version wrote still loads, replies, is evaluated and is resumed: its folders, its repository."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

DATA = Path(__file__).parent / "data" / "version_0_1"

WITH_THE_CODE_OF_THE_REPOSITORY = """
import json, sys
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

if sys.argv[3] == "alone":
    sys.modules["chatformer"] = None  # any import of it fails
model = AutoModelForSeq2SeqLM.from_pretrained(sys.argv[1], trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
replies = []
for messages in json.loads(sys.argv[2]):
    ids = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
    replies.append(tokenizer.decode(model.generate(**ids)[0], skip_special_tokens=True))
print(json.dumps([type(model).__name__, replies]))
"""


@pytest.fixture
def folder(tmp_path):
    """Return a copy of what the earlier version wrote; its data is named relative to this folder."""
    return Path(shutil.copytree(DATA, tmp_path / "version_0_1"))


@pytest.fixture
def chatformer(folder, environment, tmp_path):
    """Return a function that runs a command in the folder; it must succeed."""

    def run(*arguments):
        found = subprocess.run(
            [sys.executable, "-m", "chatformer.cli.main", *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert found.returncode == 0, found.stdout + found.stderr

    return run


def evaluation(file):
    return json.loads(file.read_text("utf-8"))


def record(folder):
    return json.loads((folder / "training_record.json").read_text("utf-8"))


def log(folder):
    return [json.loads(line) for line in (folder / "training_log.jsonl").read_text("utf-8").split("\n") if line]


@pytest.fixture(scope="module")
def answered():
    """Return the conversations that the earlier version replied to, and its replies."""
    items = evaluation(DATA / "run" / "evaluation.json")["items"]
    assert len({item["reply"] for item in items}) >= 4
    return [item["history"] for item in items], [item["reply"] for item in items]


@pytest.mark.parametrize("name", ["run", "repository"])
def test_a_chatbot_replies_as_before(folder, name, answered):
    from chatformer.chat.chatbot import Chatbot
    from chatformer.configuration.replies import ReplySettings

    chatbot = Chatbot.from_pretrained(str(folder / name))
    histories, replies = answered
    assert [chatbot.reply(history, ReplySettings()) for history in histories] == replies


@pytest.mark.parametrize("how", ["with chatformer", "alone"])
def test_a_repository_loads_with_its_own_code(folder, how, answered, environment, tmp_path):
    histories, replies = answered
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            WITH_THE_CODE_OF_THE_REPOSITORY,
            str(folder / "repository"),
            json.dumps(histories),
            how,
        ],
        env=environment | {"HF_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout.splitlines()[-1]) == ["ChatformerForConditionalGeneration", replies]


def test_a_run_is_evaluated_on_the_data_that_it_kept(folder, chatformer):
    chatformer("evaluate", "run", "--output-file", "again.json")
    again, before = evaluation(folder / "again.json"), evaluation(DATA / "run" / "evaluation.json")
    for part in ("data", "training_data", "weights_sha256", "exchanges", "notes", "signatures"):
        assert again[part] == before[part], part
    for name, value in before["figures"]["all"].items():
        assert again["figures"]["all"][name] == (value if value is None else pytest.approx(value, rel=1e-4)), name
    assert [item["reply"] for item in again["items"]] == [item["reply"] for item in before["items"]]


def test_an_interrupted_run_goes_on_to_its_end(folder, chatformer):
    interrupted, whole = folder / "interrupted", folder / "run"
    before = log(interrupted)
    steps = record(whole)["steps_taken"]
    assert not record(interrupted)["finished"] and record(interrupted)["steps_taken"] < steps
    chatformer("train", "--output-dir", "interrupted", "--resume")
    assert record(interrupted)["finished"] and record(interrupted)["steps_taken"] == steps
    assert log(interrupted)[: len(before)] == before
    # The same steps, at the same learning rates, to about the same loss: rounding may have become another.
    ours, theirs = ([line for line in log(each) if "learning_rate" in line] for each in (interrupted, whole))
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    assert [line["learning_rate"] for line in ours] == pytest.approx([line["learning_rate"] for line in theirs])
    assert [line["loss"] for line in ours] == pytest.approx([line["loss"] for line in theirs], rel=0.05, abs=0.02)


def test_a_finished_run_goes_on_for_more_steps(folder, chatformer):
    (last,) = [path.name for path in (folder / "run").glob("checkpoint-*")]
    steps = record(folder / "run")["steps_taken"]
    assert last == f"checkpoint-{steps}"
    chatformer("train", "--output-dir", "run", "--resume", "--resume-changed", "--max-steps", str(steps + 10))
    assert record(folder / "run")["steps_taken"] == steps + 10
    settings = yaml.safe_load((folder / "run" / "training_settings.yaml").read_text("utf-8"))
    before = yaml.safe_load((DATA / "run" / "training_settings.yaml").read_text("utf-8"))
    # What came later has a setting of its own; of the earlier ones only the epochs are gone, which the steps outvoted.
    assert {name: settings[name] for name in before} == before | {"max_steps": steps + 10, "num_train_epochs": None}
