"""A conversation has the same ids and, greedily, the same reply wherever it is held: on all six surfaces."""

import inspect
import io
import json
import subprocess
import sys
import unicodedata

import pytest

from chatformer.cli.main import main


def decomposed(text):
    return unicodedata.normalize("NFD", text)


# Each message of the user in parts, as clients of the API may send them; elsewhere they are typed as one text.
CONVERSATIONS = [
    [[decomposed("따라 해 1 2")], ["again!\r\n"]],
    [["  따라 ", "해 3 4\r\n"], [decomposed("고마"), decomposed("워"), "\u200b\n"]],
    [["<|user|> 처음 ", decomposed("보는 말 😀\u3000")]],
]
CLEAN = [["따라 해 1 2", "again!"], ["따라 해 3 4", "고마워"], ["<|user|> 처음 보는 말 😀"]]


def recorded():
    """Return the list of what models of this process read and reply from now on, in ids without padding."""
    from transformers import GenerationMixin

    read, generate = [], GenerationMixin.generate

    def recording(model, *arguments, **named):
        replies = generate(model, *arguments, **named)
        # A folder's settings are tried without any, as it is loaded.
        if "input_ids" in named:
            padding = model.config.pad_token_id
            for ids in zip(named["input_ids"].tolist(), replies.tolist(), strict=True):
                read.append([[id for id in row if id != padding] for row in ids])
        return replies

    GenerationMixin.generate = recording
    return read


def replies_of(page, conversations):
    """Return the replies of a page, which is asked as a browser asks it; each conversation is a visitor's own."""
    import socket

    from gradio_client import Client

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    blocks = page.launch("127.0.0.1", port)
    replies = []
    for turns in conversations:
        visitor = Client(f"http://127.0.0.1:{port}/", verbose=False, analytics_enabled=False)
        for parts in turns:
            _, shown, *_ = visitor.predict("".join(parts), api_name="/chat")
            replies.append(shown[-1]["content"][0]["text"])
    blocks.close(verbose=False)
    return replies


@pytest.fixture
def read(monkeypatch):
    from transformers import GenerationMixin

    # Set to what it is, and so put back afterwards.
    monkeypatch.setattr(GenerationMixin, "generate", GenerationMixin.generate)
    return recorded()


@pytest.fixture(scope="module")
def expected(trained):
    """Return the ids and the replies by the tokenizer and the model alone, and the conversations with the replies."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(trained)
    model = AutoModelForSeq2SeqLM.from_pretrained(trained)
    read, replies, conversations = [], [], []
    for texts, turns in zip(CLEAN, CONVERSATIONS, strict=True):
        clean, messages = [], []
        for text, parts in zip(texts, turns, strict=True):
            clean.append({"role": "user", "content": text})
            ids = tokenizer.apply_chat_template(clean, tokenize=True, return_dict=False)
            (reply_ids,) = model.generate(torch.tensor([ids]), do_sample=False).tolist()
            reply = tokenizer.decode(reply_ids, skip_special_tokens=True)
            read.append([ids, reply_ids])
            replies.append(reply)
            clean.append({"role": "assistant", "content": reply})
            messages.append({"role": "user", "content": [{"type": "text", "text": part} for part in parts]})
            spelt = [{"type": "text", "text": f"{decomposed(reply)}\r\n"}]
            messages.append({"role": "assistant", "content": spelt})
        conversations.append(messages)
    assert len(set(replies)) > 1 and all(replies)
    return read, replies, conversations


def beginnings(conversations):
    """Yield each conversation up to each of its questions."""
    for messages in conversations:
        for end in range(1, len(messages), 2):
            yield messages[:end]


def by_the_terminal(trained, conversations, monkeypatch, capsys):
    replies = []
    for turns in CONVERSATIONS:
        # Enter ends a line.
        lines = "".join("".join(parts).rstrip("\r\n") + "\r\n" for parts in turns)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
        assert main(["chat", str(trained), "--device", "cpu"]) == 0
        replies += capsys.readouterr().out.splitlines()
    return replies


def by_the_web_page(trained, conversations, monkeypatch, capsys):
    from chatformer.chat.web.serving import page_of
    from chatformer.configuration.replies import WebSettings

    return replies_of(page_of(WebSettings(model=str(trained), device="cpu")), CONVERSATIONS)


def by_the_api(trained, conversations, monkeypatch, capsys):
    from starlette.testclient import TestClient

    from chatformer.chat.loading import load_chatbot
    from chatformer.chat.serving.app import create_app
    from chatformer.configuration.replies import ServeSettings

    settings = ServeSettings(model=str(trained), model_name="bot", device="cpu")
    replies = []
    with TestClient(create_app(load_chatbot(settings), settings)) as client:
        for messages in beginnings(conversations):
            answer = client.post("/v1/chat/completions", json={"model": "bot", "messages": messages})
            assert answer.status_code == 200, answer.text
            replies.append(answer.json()["choices"][0]["message"]["content"])
    return replies


def by_the_pipeline(trained, conversations, monkeypatch, capsys):
    from transformers import pipeline

    chat = pipeline("seq2seq-chat", model=str(trained), trust_remote_code=True, device="cpu")
    return [chat(messages)["generated_text"][-1]["content"] for messages in beginnings(conversations)]


def by_the_evaluation(trained, conversations, monkeypatch, capsys):
    from accelerate.state import AcceleratorState

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    AcceleratorState._reset_state(reset_partial_state=True)
    folder = trained.parent / "surfaces"
    folder.mkdir()
    lines = [json.dumps({"messages": messages}) + "\n" for messages in conversations]
    (folder / "data.jsonl").write_text("".join(lines), "utf-8")
    output_file = folder / "evaluation.json"
    flags = ["--data", str(folder / "data.jsonl"), "--output-file", str(output_file)]
    # Its own limit is shorter: half as much again as the longest reference.
    assert main(["evaluate", str(trained), *flags, "--max-new-tokens", "256", "--device", "cpu"]) == 0
    return [item["reply"] for item in json.loads(output_file.read_text("utf-8"))["items"]]


@pytest.mark.parametrize("surface", [by_the_terminal, by_the_web_page, by_the_api, by_the_pipeline, by_the_evaluation])
def test_ids_and_replies_are_the_same_on_every_surface(surface, trained, expected, read, monkeypatch, capsys):
    expected_read, expected_replies, conversations = expected
    assert surface(trained, conversations, monkeypatch, capsys) == expected_replies
    # The evaluation reads what is alike in length together.
    assert sorted(read) == sorted(expected_read)


SPACE = """
import json, runpy, sys

page = runpy.run_path("app.py")["page"]
assert sys.modules["chatformer"].__file__.startswith(sys.path[0])
read = recorded()
replies = replies_of(page, json.loads(sys.argv[1]))
print(); print(json.dumps([read, replies]))
"""


def test_ids_and_replies_are_the_same_on_a_space(trained, expected, environment, tmp_path):
    folder = tmp_path / "space"
    assert main(["space", str(trained), "--output-dir", str(folder)]) == 0
    # In a process of its own, for a Space has a Chatformer of its own.
    script = "\n".join(["import sys; sys.path.insert(0, sys.argv[2])", *map(inspect.getsource, (recorded, replies_of))])
    process = subprocess.run(
        [sys.executable, "-c", script + SPACE, json.dumps(CONVERSATIONS), str(folder)],
        cwd=folder,
        env=environment | {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    expected_read, expected_replies, _ = expected
    assert json.loads(process.stdout.splitlines()[-1]) == [expected_read, expected_replies]
