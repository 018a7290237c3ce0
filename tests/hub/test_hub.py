"""A model shared through a Hub: pushed in one process, loaded by its name in another, by stock clients."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, pipeline

from chatformer import ChatformerForConditionalGeneration
from chatformer.hub.seal import is_ours

QUESTIONS = ["따라 해 2 4", "따라 해 7 1"]

PUSH = """
import contextlib, io, json, sys
from huggingface_hub import HfApi
from chatformer.hub.pushing import push
from chatformer.configuration.sharing import PushSettings

folder, other = json.loads(sys.argv[1])
api = HfApi()
with contextlib.redirect_stdout(io.StringIO()):
    push(PushSettings(model=folder, hub_model_id="bot"))
    api.create_tag("alice/bot", tag="v1")
    push(PushSettings(model=other, hub_model_id="bot", revision="next"))
    push(PushSettings(model=other, hub_model_id="bot", create_pr=True))
    push(PushSettings(model=folder, hub_model_id="closed", hub_private_repo=True))
print(json.dumps(api.model_info("alice/bot").sha))
"""

STOCK_PUSH = """
import contextlib, io, json, sys
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
import chatformer
from chatformer.hub.pushing import push
from chatformer.configuration.sharing import PushSettings

folder = json.loads(sys.argv[1])
with contextlib.redirect_stdout(io.StringIO()):
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    model.push_to_hub("stock")
    AutoTokenizer.from_pretrained(folder).push_to_hub("stock")
    push(PushSettings(model=folder, hub_model_id="by-xet"))
print(json.dumps(None))
"""

STOCK_CARDS = """
import contextlib, io, json, sys
import torch
from huggingface_hub import hf_hub_download
from transformers import AutoTokenizer
from chatformer import ChatformerForConditionalGeneration

folder = json.loads(sys.argv[1])
with contextlib.redirect_stdout(io.StringIO()):
    model = ChatformerForConditionalGeneration.from_pretrained(folder)
    model.push_to_hub("whole-stock", tags=["my-tag"])
    first = open(hf_hub_download("alice/whole-stock", "README.md"), encoding="utf-8").read()
    AutoTokenizer.from_pretrained(folder).push_to_hub("whole-stock")
    model.push_to_hub("edited")
    model.save_pretrained(f"{folder}/../saved", push_to_hub=True, commit_message="Saved")
    model.save_pretrained(f"{folder}/../named", push_to_hub=True, repo_id="alice/by-id", max_shard_size="100KB")
    with torch.no_grad():
        model.lm_head.weight.add_(0.01)
    # The stock card stands there already.
    AutoTokenizer.from_pretrained(folder).push_to_hub("learnt")
    model.push_to_hub("learnt")
print(json.dumps([first]))
"""

LOAD = """
import contextlib, io, json, os, re, sys
sys.modules["chatformer"] = None  # any import of it fails
import torch
from huggingface_hub import hf_hub_download
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

questions, places, private, token = json.loads(sys.argv[1])
found = {}
for repo, revision in places:
    model = AutoModelForSeq2SeqLM.from_pretrained(repo, revision=revision, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(repo, revision=revision)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": questions[0]}], return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        logits = model(**ids, labels=ids["input_ids"]).logits
    chat = pipeline("seq2seq-chat", model=repo, revision=revision, trust_remote_code=True, device="cpu")
    found[f"{repo}@{revision}"] = {
        "class": f"{type(model).__module__}.{type(model).__name__}",
        "logits": logits.flatten()[:40].tolist(),
        "replies": [chat(question)["generated_text"] for question in questions],
    }
card = open(hf_hub_download(places[0][0], "README.md"), encoding="utf-8").read()
with contextlib.redirect_stdout(io.StringIO()) as said:
    exec(re.search("```python\\n(.*?)```", card, re.DOTALL)[1], {})
refusals = []
if private:
    try:
        AutoModelForSeq2SeqLM.from_pretrained(private, trust_remote_code=True)
    except OSError as error:
        refusals.append(str(error))
    model = AutoModelForSeq2SeqLM.from_pretrained(private, trust_remote_code=True, token=token)
    refusals.append(type(model).__name__)
print(); print(json.dumps([found, said.getvalue(), refusals]))
"""

TRAINING_DATA = """
import json, sys
from chatformer.data.conversations import load_conversations
from chatformer.data.messages import DataError

found = [
    load_conversations(name, split="train", revision=revision).conversations["messages"]
    for name, revision in [("alice/talks", None), ("alice/talks", "v1"), ("alice/table", None)]
]
found = [[list(map(dict, messages)) for messages in conversations] for conversations in found]
try:
    load_conversations("alice/none", split="train")
except DataError as error:
    found.append(str(error))
print(); print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def other(trained, tmp_path_factory):
    """Return the folder of a model that answers otherwise."""
    folder = Path(shutil.copytree(trained, tmp_path_factory.mktemp("other") / "model"))
    torch.manual_seed(0)
    model = ChatformerForConditionalGeneration.from_pretrained(folder)
    with torch.no_grad():
        model.model.shared.weight.add_(0.1 * torch.randn_like(model.model.shared.weight))
    model.save_pretrained(folder)
    return folder


def answers(folder):
    """Return what a folder's model makes of the questions, here and with Chatformer."""
    torch.set_num_threads(1)
    model = ChatformerForConditionalGeneration.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": QUESTIONS[0]}]
    ids = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        logits = model(**ids, labels=ids["input_ids"]).logits
    chat = pipeline("seq2seq-chat", model=str(folder), trust_remote_code=True, device="cpu")
    return logits.flatten()[:40], [chat(question)["generated_text"] for question in QUESTIONS]


def check(found, folder):
    logits, replies = answers(folder)
    assert found["class"].startswith("transformers_modules.alice.")
    assert found["class"].endswith(".ChatformerForConditionalGeneration")
    torch.testing.assert_close(torch.tensor(found["logits"]), logits, rtol=0, atol=1e-6)
    assert found["replies"] == replies


def test_pushed_by_one_and_loaded_by_another_at_every_kind_of_revision(hub, hub_server, trained, other, run_client):
    head = run_client(hub, PUSH, [str(trained), str(other)], token=hub_server.ALICE)
    # The files came by LFS.
    assert len(hub.asked("PUT", "/lfs/")) >= 2 and not hub.asked("GET", "xet-write-token")
    places = [["alice/bot", revision] for revision in (None, head, "v1", "next", "refs/pr/1")]
    arguments = [QUESTIONS, places, "alice/closed", hub_server.ALICE]
    found, said, refusals = run_client(hub, LOAD, arguments)
    assert list(found) == [f"{repo}@{revision}" for repo, revision in places]
    for revision in (None, head, "v1"):
        check(found[f"alice/bot@{revision}"], trained)
    for revision in ("next", "refs/pr/1"):
        check(found[f"alice/bot@{revision}"], other)
    assert not torch.allclose(answers(trained)[0], answers(other)[0], atol=1e-3)

    # What the card tells people to type, typed.
    card = hub.content("models", "alice/bot", "README.md").decode()
    question = json.loads(re.search(r'conversation = \[{"role": "user", "content": (".*")}\]', card)[1])
    chat = pipeline("seq2seq-chat", model=str(trained), trust_remote_code=True, device="cpu")
    assert said == chat(question)["generated_text"] + "\n"

    refused, loaded = refusals
    assert "private" in refused and loaded == "ChatformerForConditionalGeneration"


def test_what_stock_methods_push_is_whole_and_xet_carries_it_both_ways(hub, hub_server, trained, run_client):
    hub.requests.clear()
    # Another test's model is the same file, which is not to count as sent.
    hub.large.clear()
    run_client(hub, STOCK_PUSH, str(trained), token=hub_server.ALICE, xet=True)
    assert hub.asked("GET", "xet-write-token") and not hub.asked("PUT", "/lfs/")
    hub.requests.clear()
    arguments = [QUESTIONS, [["alice/by-xet", None], ["alice/stock", None]], None, None]
    found, said, _ = run_client(hub, LOAD, arguments, xet=True)
    check(found["alice/by-xet@None"], trained)
    check(found["alice/stock@None"], trained)
    assert said.strip()
    assert hub.asked("GET", "xet-read-token") and not hub.asked("GET", "/cdn/")


def test_stock_methods_bring_card_and_record_of_the_same_weights(hub, hub_server, trained, run_client, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "secret place" / "bot")
    hub.repos["models", "alice/edited"] = edited = hub_server.Repo("models", "alice/edited")
    edited.commit("refs/heads/main", {"README.md": hub.stored(b"# Mine\n")}, "Mine", "alice", None)
    [card_before] = run_client(hub, STOCK_CARDS, str(folder), token=hub_server.ALICE)

    whole = hub.files("models", "alice/whole-stock")
    assert set(whole) == {
        ".gitattributes",
        "README.md",
        *(name for name in os.listdir(folder) if (folder / name).is_file()),
    }
    # What the tokenizer's own push makes of the card is the same card.
    assert whole["README.md"].decode() == card_before and is_ours(whole["README.md"])
    assert "- my-tag\n" in card_before
    assert "## How it was trained" in card_before
    log = whole["training_log.jsonl"].decode()
    assert b'"samples"' in (folder / "training_log.jsonl").read_bytes() and '"samples"' not in log
    for name, content in whole.items():
        assert b"secret place" not in content and b"/tmp/" not in content, name

    # So does a model that is pushed as it is saved.
    saved = hub.files("models", "alice/saved")
    assert {*saved} == {*whole} and is_ours(saved["README.md"])
    assert b"## How it was trained" in saved["README.md"]
    assert hub.repos["models", "alice/saved"].at("main").title == "Saved"
    assert {"config.json", "model.safetensors"} <= {*os.listdir(folder.parent / "saved")}
    in_parts = hub.files("models", "alice/by-id")
    assert "model.safetensors.index.json" in in_parts and is_ours(in_parts["README.md"])

    # One that has learnt since has no record, one that a person has written about keeps that.
    learnt = hub.files("models", "alice/learnt")
    assert not set(learnt) & {"training_record.json", "training_log.jsonl", "training_curves.png"}
    assert "What it was trained on is not recorded." in learnt["README.md"].decode()
    for name in ("whole-stock", "learnt"):
        card = hub.content("models", f"alice/{name}", "README.md").decode()
        assert "More Information Needed" not in card and hub_server.card_errors(card, "model") == []
        assert f"chatformer chat alice/{name}\n" in card
    assert hub.files("models", "alice/edited")["README.md"].strip().endswith(b"# Mine")


BY_NAME = {
    "chat": [],
    "evaluate": ["--data", "starter", "--device", "cpu"],
    "export": ["--to", "marian", "--output-dir", "never"],
}


@pytest.mark.parametrize("verb", BY_NAME)
def test_who_may_not_load_is_told_why(chatformer, hub, hub_server, verb):
    for name in ("gated", "open", "private"):
        repo = hub.repos["models", f"bob/{name}"] = hub_server.Repo("models", f"bob/{name}")
        repo.commit("refs/heads/main", {"config.json": hub.stored(b"{}")}, "Bot", "bob", None)
    hub.repos["models", "bob/gated"].gated = hub.repos["models", "bob/private"].private = True

    def be_gated():
        raise hub_server.HubRefusal(403, "Access to this repository is restricted.", "GatedRepo")

    def told(name, token=hub_server.ALICE):
        status, out, err = chatformer.run(verb, name, *BY_NAME[verb], token=token)
        begin = f"error: There is no folder {name}, and the Hub gave no model {name}: "
        assert (status, out) == (2, "") and err.splitlines()[-1].startswith(begin), err
        return err.splitlines()[-1].removeprefix(begin)

    gated = (
        "is gated: its authors must let you in first. Log in with `hf auth login`, ask for access on that page, and "
        "try again once it is granted."
    )
    assert told("bob/gated") == told("bob/gated", None) == f"{hub.url}/bob/gated {gated}"
    # Everybody may look at its page, and only its files are kept.
    for method in ("HEAD", "GET"):
        hub.fail(method, "/bob/open/resolve/", be_gated)
    assert told("bob/open") == f"{hub.url}/bob/open {gated}"
    hub.faults.clear()
    hub.fail("GET", "/api/models/bob/open", 429)
    assert told("bob/open") == (
        "The Hub has had too many requests from you or your network (429): try again in 55 seconds."
    )
    unseen = "does not exist, or is private: log in with an account that may read it, by `hf auth login`."
    assert told("bob/private") == f"{hub.url}/bob/private {unseen}"
    assert told("bob/none", None) == f"{hub.url}/bob/none {unseen}"


def test_the_commit_of_what_was_loaded_by_name_is_shown(
    chatformer, hub, hub_server, trained, conversations_file, tmp_path
):
    repo = hub.repos["models", "alice/by-name"] = hub_server.Repo("models", "alice/by-name")
    tree = {path.name: hub.stored(path.read_bytes()) for path in trained.iterdir() if path.is_file()}
    commit = repo.commit("refs/heads/main", tree, "Bot", "alice", None)
    repo.commit("refs/heads/next", {}, "Nothing", "alice", commit)
    arguments = {
        "evaluate": ["--data", conversations_file, "--max-replies", 2, "--output-file", tmp_path / "evaluation.json"],
        "export": ["--to", "marian", "--output-dir", tmp_path / "marian"],
    }
    for verb, rest in arguments.items():
        for name, shown in [("alice/by-name", 1), (trained, 0)]:
            status, out, err = chatformer.run(verb, name, *rest)
            assert status == 0, err
            assert err.splitlines().count(f"alice/by-name, commit {commit[:7]}") == shown, err
            assert ", commit " not in out and (", commit " in err) == shown
            if verb == "export":
                exported = json.loads((tmp_path / "marian" / "conversion.json").read_text("utf-8"))
                assert exported["commit"] == (commit if shown else None)
                shutil.rmtree(tmp_path / "marian")


def test_training_data_comes_from_the_hub(hub, hub_server, conversations, run_client, tmp_path):
    import datasets

    def repository(name, files):
        repo = hub_server.Repo("datasets", name)
        stored = {path: hub.stored(content) for path, content in files.items()}
        repo.commit("refs/heads/main", stored, "Data", "alice", None)
        hub.repos["datasets", name] = repo
        return repo

    datasets.Dataset.from_list(conversations).to_parquet(tmp_path / "train.parquet")
    lines = "".join(json.dumps(made, ensure_ascii=False) + "\n" for made in conversations[:3]).encode()
    talks = repository("alice/talks", {"train.jsonl": lines})
    talks.refs["refs/tags/v1"] = talks.refs["refs/heads/main"]
    parquet = {"data/train-00000-of-00001.parquet": hub.stored((tmp_path / "train.parquet").read_bytes())}
    talks.commit("refs/heads/main", parquet, "More", "alice", talks.refs["refs/heads/main"])
    repository("alice/table", {"train.csv": 'question,answer\n안녕?,"네, 안녕!"\n뭐 해?,놀아\n'.encode()})

    newest, first, table, missing = run_client(hub, TRAINING_DATA)
    made = [[dict(message) for message in entry["messages"]] for entry in conversations]
    assert newest == made and first == made[:3]
    assert [[message["content"] for message in messages] for messages in table] == [
        ["안녕?", "네, 안녕!"],
        ["뭐 해?", "놀아"],
    ]
    assert "gave no dataset 'alice/none'" in missing


def test_the_local_hub_serves_ranges(hub, hub_server, run_client):
    content = bytes(range(256)) * 40_000
    repo = hub_server.Repo("models", "alice/large")
    repo.commit("refs/heads/main", {"large.bin": hub.stored(content)}, "Large", "alice", None)
    hub.repos["models", "alice/large"] = repo
    script = """
import hashlib, json
from huggingface_hub import get_session
import os
url = os.environ["HF_ENDPOINT"] + "/alice/large/resolve/main/large.bin"
ranges = ("bytes=0-99", "bytes=100-", "bytes=-5", "bytes=99999999-")
parts = [get_session().get(url, headers={"Range": asked}) for asked in ranges]
print(json.dumps([[part.status_code, part.headers.get("content-range"), len(part.content)] for part in parts]))
"""
    size = len(content)
    assert run_client(hub, script) == [
        [206, f"bytes 0-99/{size}", 100],
        [206, f"bytes 100-{size - 1}/{size}", size - 100],
        [206, f"bytes {size - 5}-{size - 1}/{size}", 5],
        [416, f"bytes */{size}", 0],
    ]
