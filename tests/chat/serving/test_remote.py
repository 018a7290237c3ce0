"""`chat --url`, with our own server and with others of the protocol."""

import http.server
import io
import json
import sys
import threading

import pytest

from chatformer.chat.chatbot import Conversation
from chatformer.chat.errors import ChatError
from chatformer.chat.remote import RemoteChatbot
from chatformer.cli.main import main
from chatformer.configuration.replies import ChatSettings, ReplySettings

GREEDY = ReplySettings()


class Answers(http.server.BaseHTTPRequestHandler):
    """A server that has one model and answers with what the test puts there."""

    def do_GET(self):
        self.answer(200, "application/json", b'{"data": [{"id": "m"}]}')

    def do_POST(self):
        self.server.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.server.keys.append(self.headers["Authorization"])
        self.answer(*self.server.reply)

    def answer(self, status, kind, content):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def other():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.received, server.keys = [], []
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def events(*contents):
    lines = [": a comment\n"]
    for content in contents:
        lines.append(f"data: {json.dumps(content) if not isinstance(content, str) else content}\n\n")
    return 200, "text/event-stream", "".join(lines).encode()


def delta(text):
    return {"choices": [{"index": 0, "delta": {"content": text}}]}


def connected(url, **settings):
    return RemoteChatbot.connect(ChatSettings(url=url, **settings))


def test_a_chat_over_the_network_is_the_chat_with_the_model(serve, chatbot):
    with serve(chatbot, api_key="secret") as server:
        for url in (server.url, f"{server.url}/v1", f"{server.url}/v1/"):
            remote, local = Conversation(connected(url, api_key="secret"), "짧게"), Conversation(chatbot, "짧게")
            for text in ("따라 해 1 2", "again!"):
                pieces = []
                assert remote.say(text, GREEDY, pieces.append) == local.say(text, GREEDY) == "".join(pieces)
            assert remote.messages == local.messages
        with pytest.raises(ChatError, match=r"401.*CHATFORMER_API_KEY"):
            connected(server.url)
        with pytest.raises(ChatError, match=r"\(404\).*no model 'gpt' here; the model is 'bot'"):
            connected(server.url, model="gpt", api_key="secret").reply(local.messages, GREEDY)


def test_what_is_asked_for_is_what_the_settings_say(other, monkeypatch):
    monkeypatch.setenv("CHATFORMER_API_KEY", "k")
    other.reply = events(
        {"choices": [{"delta": {"role": "assistant"}}]}, delta("네"), delta(None), {"choices": []}, "[DONE]"
    )
    remote = connected(other.url, seed=5)
    messages = [{"role": "user", "content": "안녕"}]
    assert remote.reply(messages, GREEDY) == "네"
    assert remote.reply(messages, ReplySettings(temperature=0.5, top_p=0.9, max_new_tokens=7)) == "네"
    always = {"model": "m", "messages": messages, "stream": True}
    assert other.received == [
        {**always, "seed": 5},
        {**always, "temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "seed": 5},
    ]
    assert other.keys == ["Bearer k"] * 2


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (events(delta("ne"), {"error": {"message": "out of order"}}), "out of order"),
        (events(delta("ne")), "before it was complete"),
        (events("{"), "does not answer as"),
        (events({"choices": [{}]}), "does not answer as"),
        ((429, "application/json", b'{"error": {"message": "too busy"}}'), r"refused \(429\): too busy"),
        ((502, "text/html", b"<html>"), r"refused \(502\): Bad Gateway"),
        ((200, "text/html", b"<html>"), "before it was complete"),
    ],
)
def test_what_is_no_reply_is_an_error_in_words(other, reply, words):
    other.reply = reply
    conversation = Conversation(connected(other.url))
    with pytest.raises(ChatError, match=words):
        conversation.say("안녕", GREEDY)
    assert conversation.messages == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--url", "http://127.0.0.1:9"], "cannot be reached"),
        (["--url", "127.0.0.1:8000"], "--url must be an address"),
        (["--url", "ftp://x"], "--url must be an address"),
        (["--url", "http://x:port"], "--url must be an address"),
    ],
)
def test_what_cannot_be_asked_for_is_said_before_the_chat(other, capsys, flags, words):
    assert main(["chat", "--url", other.url, *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error


def test_a_pipe_talks_over_the_network(other, capsys, monkeypatch):
    other.reply = events(delta("네, "), delta("1\n2"), "[DONE]")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("안녕\n\n".encode())))
    assert main(["chat", "--url", other.url]) == 0
    assert capsys.readouterr().out == "네, 1 2\n\n"


def test_what_the_server_decides_is_said_to_have_no_effect(other, capsys, monkeypatch):
    other.reply = events(delta("네"), "[DONE]")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("안녕\n".encode())))
    own = ["--engine", "ctranslate2", "--device", "cpu", "--revision", "v1", "--num-beams", "4", "--top-k", "9"]
    drawn = ["--temperature", "0.5", "--top-p", "0.9", "--max-new-tokens", "7"]
    assert main(["chat", "--url", other.url, *own, *drawn]) == 0
    said = capsys.readouterr().err.splitlines()
    expected = [f"warning: {name} has no effect with --url." for name in own[::2]]
    assert sorted(said) == sorted(expected)
    assert set(other.received[0]) == {"model", "messages", "stream", "temperature", "top_p", "max_tokens"}


@pytest.mark.parametrize("command", [["chat"], ["web", "--port", "0"]])
def test_a_model_or_a_url_is_needed(capsys, command):
    assert main(command) == 2
    assert capsys.readouterr().err.startswith("error: The folder of a model must be given, or --url")
    assert main([*command, "folder", "--api-key", "x"]) == 2
    assert "warning: --api-key has no effect without --url." in capsys.readouterr().err
