"""`chatformer train --push-to-hub` against a Hub: when it pushes, what it makes sure of first, what a failure costs."""

import json
import subprocess
import sys

import pytest

from chatformer.chat.chatbot import Chatbot

STEPS = {"max_steps": 20, "eval_steps": 5, "save_steps": 5, "max_eval_replies": 2}


@pytest.fixture(scope="module")
def run(chatformer, flags, hub_server):
    """Return a function that trains a tiny model with flags for the Hub."""

    def train(folder, *more, token=hub_server.ALICE, **changes):
        return chatformer.run("train", *flags(folder, **STEPS | changes), *more, token=token)

    return train


@pytest.fixture(scope="module")
def unshared(run, tmp_path_factory):
    """Return the folder of a run that pushed nothing."""
    folder = tmp_path_factory.mktemp("unshared") / "model"
    status, _, err = run(folder)
    assert status == 0, err
    return folder


def uploads(hub, name):
    """Return the commits that brought a model, the first one first; what else there is are cards."""
    repo = hub.repos["models", f"alice/{name}"]
    found, sha = [], repo.at("main").sha
    while sha is not None:
        commit = repo.commits[sha]
        found.append(commit)
        sha = commit.parent
    return [commit for commit in reversed(found) if commit.title == "Upload a Chatformer model"]


def steps_in(hub, commit):
    """Return the last step that the log in a commit tells of."""
    return json.loads(hub.content_of(commit.tree["training_log.jsonl"]).splitlines()[-1])["step"]


def best_steps(folder):
    """Return the steps at which a run's model was the best so far."""
    best, found = None, []
    for line in map(json.loads, (folder / "training_log.jsonl").read_text("utf-8").splitlines()):
        if "eval_loss" in line and (best is None or line["eval_loss"] < best):
            best = line["eval_loss"]
            found.append(line["step"])
    return found


@pytest.mark.parametrize("strategy", ["end", "every_save", "best"])
def test_it_is_pushed_when_asked_for_and_the_run_is_the_same(run, hub, unshared, tmp_path, strategy):
    folder = tmp_path / f"bot-{strategy}"
    status, _, err = run(folder, "--push-to-hub", "--hub-strategy", strategy, eval_steps=5)
    assert status == 0, err
    assert f"Pushed: {hub.url}/alice/{folder.name}" in err
    steps = [steps_in(hub, commit) for commit in uploads(hub, folder.name)]
    best = best_steps(folder)
    assert len(best) > 2
    expected = {"end": [], "every_save": [5, 10, 15], "best": [step for step in best if step < 20]}
    assert steps == [*expected[strategy], 20]
    # The last one has all that the run left.
    pushed = hub.files("models", f"alice/{folder.name}")
    assert json.loads(pushed["training_record.json"])["finished"] and "training_curves.png" in pushed
    assert b'"samples"' in pushed["training_log.jsonl"]
    for name in ("model.safetensors", "tokenizer.json"):
        assert pushed[name] == (folder / name).read_bytes() == (unshared / name).read_bytes()


def test_nothing_is_pushed_before_there_is_a_model(run, hub, tmp_path):
    more = ["--push-to-hub", "--hub-strategy", "every_save", "--hub-model-id", "alice/late", "--hub-private-repo"]
    status, _, err = run(tmp_path / "bot", *more, "--no-hub-samples", eval_steps=10)
    assert status == 0, err
    assert [steps_in(hub, commit) for commit in uploads(hub, "late")] == [10, 15, 20]
    assert hub.repos["models", "alice/late"].private
    # What people said stays at home when that is asked for.
    assert b'"samples"' in (tmp_path / "bot" / "training_log.jsonl").read_bytes()
    for commit in uploads(hub, "late"):
        assert b'"samples"' not in hub.content_of(commit.tree["training_log.jsonl"])
        card = hub.content_of(commit.tree["README.md"]).decode()
        assert "| 안녕하세요! |" in card and "| 따라 해" not in card
        assert b"hub_samples" not in hub.content_of(commit.tree["training_settings.yaml"])


def test_a_push_that_fails_does_not_stop_the_run(run, hub, unshared, tmp_path):
    hub.fail("POST", "/commit/", 500, times=2)
    status, _, err = run(tmp_path / "shaky", "--push-to-hub", "--hub-strategy", "every_save")
    assert status == 0, err
    assert err.count("Not pushed: The Hub refused a step of the push to alice/shaky with 500") == 2
    assert [steps_in(hub, commit) for commit in uploads(hub, "shaky")] == [15, 20]
    assert hub.content("models", "alice/shaky", "model.safetensors") == (unshared / "model.safetensors").read_bytes()


def test_a_last_push_that_fails_is_an_error_and_nothing_is_lost(run, chatformer, hub, hub_server, unshared, tmp_path):
    folder = tmp_path / "last"
    hub.fail("POST", "/commit/", 500)
    status, _, err = run(folder, "--push-to-hub")
    assert status == 2
    last = err.splitlines()[-1]
    assert last.startswith(f"error: The model in {folder} is complete, but not on the Hub: The Hub refused")
    advice = f"chatformer push {folder} --hub-model-id last"
    assert f"`{advice}`" in last
    assert (folder / "model.safetensors").read_bytes() == (unshared / "model.safetensors").read_bytes()
    assert Chatbot.from_pretrained(str(folder), device="cpu")
    assert chatformer.run(*advice.split()[1:], token=hub_server.ALICE)[0] == 0
    assert [steps_in(hub, commit) for commit in uploads(hub, "last")] == [20]


@pytest.mark.parametrize(
    ("token", "name", "message"),
    [
        (None, "new", "You are not logged in to the Hugging Face Hub"),
        ("hf_unknownTokenForTheseTests00000000", "new", "does not know your token"),
        ("ALICE_READS", "new", "alice's token can only read"),
        ("ALICE_READS", "alice/there", "alice's token can only read"),
        ("BOB", "alice/there", "alice/there belongs to alice, where bob may not write"),
        ("BOB", "carol/new", "carol/new belongs to carol, where bob may not write"),
        ("ALICE", "a b", "--hub-model-id a b must be a name such as"),
    ],
)
def test_who_could_not_push_does_not_train(run, hub, hub_server, tmp_path, token, name, message):
    hub.repos["models", "alice/there"] = there = hub_server.Repo("models", "alice/there")
    there.commit("refs/heads/main", {}, "initial commit", "alice", None)
    known = set(hub.repos)
    token = getattr(hub_server, token or "", token)
    status, _, err = run(tmp_path / "bot", "--push-to-hub", "--hub-model-id", name, token=token)
    assert status == 2
    assert err.splitlines()[-1].startswith("error: --push-to-hub: ") and message in err.splitlines()[-1]
    assert not (tmp_path / "bot").exists() and set(hub.repos) == known


@pytest.mark.parametrize("flag", [["--hub-model-id", "bot"], ["--no-hub-samples"]])
def test_flags_that_mean_nothing_are_refused(run, tmp_path, flag):
    status, _, err = run(tmp_path / "bot", *flag)
    assert (status, err) == (2, f"error: {flag[0]} is for --push-to-hub, which is not given.\n")


def test_the_loop_alone_says_who_can_push(flags, environment, tmp_path):
    command = [sys.executable, "-m", "chatformer.training.train", *flags(tmp_path / "bot", **STEPS), "--push-to-hub"]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == 2
    assert process.stderr.startswith("error: --push-to-hub needs `chatformer train`")
    assert not (tmp_path / "bot").exists()
