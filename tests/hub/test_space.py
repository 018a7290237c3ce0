"""`chatformer space`: the page of `chatformer web` runs on its own, and says what the model says."""

import ast
import dataclasses
import re
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import torch
from gradio_client import Client
from transformers import pipeline

from chatformer.hub.spaces import local_model, space_files

ROOT = Path(__file__).parents[2]

OWN_CHATFORMER = """
import runpy, sys
sys.path.insert(0, ".")
import chatformer.chat
assert chatformer.__file__.startswith(sys.argv[1]) and chatformer.chat.__file__.startswith(sys.argv[1])
runpy.run_path("app.py", run_name="__main__")
"""

REPLY_OF_THE_PAGE = """
import json, os, runpy, sys
folder = os.path.dirname(json.loads(sys.argv[1]))
sys.path.insert(0, folder)
for name in [name for name in sys.modules if name.split(".")[0] == "chatformer"]:
    del sys.modules[name]
page = runpy.run_path(json.loads(sys.argv[1]))["page"]
assert sys.modules["chatformer"].__file__.startswith(folder)
from chatformer.configuration.replies import ReplySettings
reply = [{"type": "text", "text": "네, 2 4"}]
history = [{"role": "user", "content": "따라 해 2 4"}, {"role": "assistant", "content": reply}]
conversations = [[{"role": "user", "content": "따라 해 3 5"}], [*history, {"role": "user", "content": "again!"}]]
print(); print(json.dumps([page.chatbot.reply(messages, ReplySettings()) for messages in conversations]))
"""

HISTORY = [{"role": "user", "content": "따라 해 2 4"}, {"role": "assistant", "content": "네, 2 4"}]
AGAIN = {"role": "user", "content": "again!"}


@pytest.fixture(scope="module")
def said(trained):
    """Return a function that gives the model's own reply to a conversation."""
    torch.set_num_threads(1)
    chat = pipeline("seq2seq-chat", model=str(trained), trust_remote_code=True, device="cpu")
    return lambda messages: chat(messages)["generated_text"][-1]["content"]


@pytest.fixture(scope="module")
def space(chatformer, trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("space") / "page"
    status, _, err = chatformer.run("space", trained, "--output-dir", folder, "--title", 'A "bot"')
    assert status == 0, err
    assert "pip install -r requirements.txt && python app.py" in err
    return folder


@pytest.fixture(scope="module")
def page(space, hub, client_environment, tmp_path_factory):
    """Return the address of the page, which runs."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = client_environment(hub) | {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(tmp_path_factory.mktemp("gradio")),
        "HF_HUB_OFFLINE": "1",
    }
    with (tmp_path_factory.mktemp("log") / "errors").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", OWN_CHATFORMER, str(space)], cwd=space, env=environment, stdout=log, stderr=log
        )
        try:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    log.seek(0)
                    assert process.poll() is None, log.read()
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.kill()
            process.wait()


def test_the_page_says_what_the_model_says_word_by_word(page, said):
    client = Client(page, verbose=False, analytics_enabled=False)
    first = last_of(client.predict("따라 해 2 4", api_name="/chat"))
    assert first == said(HISTORY[:1])
    # The second turn has the first before it.
    second = client.submit("again!", api_name="/chat")
    turns = [HISTORY[0], {"role": "assistant", "content": first}, AGAIN]
    assert last_of(second.result()) == said(turns) != said([AGAIN])
    replies = [last_of(outputs) for outputs in second.outputs()[1:]]
    assert len(replies) > 1 and all(replies[-1].startswith(piece) for piece in replies)
    # Another visitor begins a conversation of their own.
    other = Client(page, verbose=False, analytics_enabled=False)
    assert last_of(other.predict("again!", api_name="/chat")) == said([AGAIN])


def last_of(outputs):
    """Return the last message that the page shows."""
    return outputs[1][-1]["content"][0]["text"]


def test_the_space_holds_a_model_and_no_record(space, trained):
    names = {path.relative_to(space).as_posix() for path in space.rglob("*") if path.is_file()}
    assert {"app.py", "README.md", "requirements.txt", "model/model.safetensors", "model/config.json"} < names
    records = [name for name in names if "training" in name or "checkpoint" in name]
    assert not [name for name in records if not name.startswith("chatformer/")]
    assert (space / "model" / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    for path in space.rglob("*"):
        assert not path.is_file() or str(trained).encode() not in path.read_bytes()


def test_what_the_page_needs_is_what_chatformer_was_tested_with(space, hub_server):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    known = {*project["dependencies"], *project["optional-dependencies"]["web"]}
    needed = (space / "requirements.txt").read_text().splitlines()
    assert set(needed) <= known
    # Imports at the head of the files; those within functions are for other commands.
    imported = {
        name.split(".")[0]
        for path in (space / "app.py", *(space / "chatformer").rglob("*.py"))
        if "serving" not in path.parts
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, (ast.Import, ast.ImportFrom)) and not getattr(node, "level", 0)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    names = {re.match(r"\w+", line)[0].replace("pyyaml", "yaml") for line in needed}
    # transformers itself needs these, and torch the last, where there is a GPU; nothing else imports that.
    of_others = {"huggingface_hub", "numpy", "safetensors", "triton"}
    assert imported - set(sys.stdlib_module_names) - {"chatformer"} - of_others == names
    card = (space / "README.md").read_text("utf-8")
    assert hub_server.card_errors(card, "space") == []
    front = hub_server.front_matter(card)
    assert (front["title"], front["sdk"], front["app_file"]) == ('A "bot"', "gradio", "app.py")
    assert f"gradio=={front['sdk_version']}" in (ROOT / "constraints.txt").read_text().splitlines()


def test_a_title_cannot_become_code(trained):
    title = '"""\nimport os\n{{ 1 }}'
    app = space_files(local_model(str(trained)), title)["app.py"].decode()
    values = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(app).body
        if isinstance(node, ast.Assign) and isinstance(node.value, (ast.Constant, ast.List))
    }
    assert values["TITLE"] == title
    assert "안녕하세요!" in values["EXAMPLES"] and 1 < len(values["EXAMPLES"]) <= 6
    app = space_files(local_model(str(trained)), title, samples=False)["app.py"].decode()
    assert "\nEXAMPLES = ['안녕하세요!']\n" in app


def test_only_of_a_model_with_a_record_it_says_how_it_was_trained(hub_server, trained):
    model = local_model(str(trained))
    converted = dataclasses.replace(model, records=dataclasses.replace(model.records, record={}))
    claims = ("random weights", "from scratch", "처음부터", "on conversations", "대화로 학습")
    for each, is_claimed in ((model, True), (converted, False)):
        # The languages are known by the log.
        files = space_files(each, "bot")
        texts = files["README.md"].decode() + files["app.py"].decode()
        assert [claim in texts for claim in claims] == [is_claimed] * len(claims)
        assert "may be wrong or rude" in " ".join(texts.split()) and "무례한 말" in texts
        assert hub_server.card_errors(files["README.md"].decode(), "space") == []


def test_a_space_for_a_model_on_the_hub_is_pinned_and_pushed(
    chatformer, hub, hub_server, trained, tmp_path, run_client, said
):
    token = hub_server.ALICE
    assert chatformer.run("push", trained, "--hub-model-id", "bot", token=token)[0] == 0
    commit = hub.repos["models", "alice/bot"].at("main").sha
    arguments = ["space", "alice/bot", "--repo", "bot-page", "--output-dir"]
    status, out, err = chatformer.run(*arguments, tmp_path / "page", token=token)
    assert (status, out.splitlines()[-1]) == (0, f"{hub.url}/spaces/alice/bot-page"), err
    files = {
        path.relative_to(tmp_path / "page").as_posix(): path.read_bytes()
        for path in (tmp_path / "page").rglob("*")
        if path.is_file()
    }
    assert {name for name in files if "/" not in name} == {"app.py", "README.md", "requirements.txt"}
    assert {"chatformer/modeling_chatformer.py", "chatformer/chat/web/page.py"} < set(files)
    assert not [name for name in files if "/training/" in name or "/hub/" in name]
    pushed = hub.files("spaces", "alice/bot-page")
    assert {name: pushed[name] for name in files} == files
    assert f"REVISION = '{commit}'" in files["app.py"].decode()
    front = hub_server.front_matter(files["README.md"].decode())
    assert front["models"] == ["alice/bot"] and hub_server.card_errors(files["README.md"].decode(), "space") == []

    status, _, err = chatformer.run(*arguments, tmp_path / "again", token=token)
    assert status == 0 and "Nothing to do" in err
    assert len(hub.repos["spaces", "alice/bot-page"].commits) == 2

    # What comes to the model later does not reach the page.
    repo = hub.repos["models", "alice/bot"]
    spoilt = repo.at("main").tree | {"config.json": hub.stored(b"{}")}
    repo.commit("refs/heads/main", spoilt, "Spoil", "alice", commit)
    first, second = run_client(hub, REPLY_OF_THE_PAGE, str(tmp_path / "page" / "app.py"))
    assert first == said([{"role": "user", "content": "따라 해 3 5"}])
    assert second == said([*HISTORY, AGAIN])


def test_mistakes_are_told_in_a_line(chatformer, hub, hub_server, trained, tmp_path):
    hub.repos["models", "bob/gated"] = gated = hub_server.Repo("models", "bob/gated", gated=True)
    gated.commit("refs/heads/main", {}, "initial commit", "bob", None)
    for arguments, message in [
        (["alice/none", "--output-dir", tmp_path / "new"], "There is no folder alice/none, and the Hub gave no model"),
        (["bob/gated", "--output-dir", tmp_path / "new"], f"{hub.url}/bob/gated is gated: its authors must let you in"),
        ([trained, "--output-dir", trained], "is not empty"),
        ([trained, "--output-dir", tmp_path / "new", "--repo", "a/b/c"], "--repo a/b/c must be a name"),
        ([tmp_path, "--output-dir", tmp_path / "new"], "holds no model: it has no config.json"),
    ]:
        status, out, err = chatformer.run("space", *arguments, token=hub_server.ALICE)
        assert (status, out) == (2, "") and err.startswith("error: ") and message in err, err
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "new").exists()
