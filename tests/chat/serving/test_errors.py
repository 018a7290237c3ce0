"""Requests that get no reply, and why."""

import json

import pytest

from chatformer.chat.serving.protocol import MAX_CHOICES

QUESTION = [{"role": "user", "content": "따라 해 1 2"}]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "tool", "content": "5", "tool_call_id": "x"}, "messages[0].role"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content"),
        ({"role": "user", "content": None}, "messages[0].content"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "user"}, "messages[0].content"),
        ({"content": "x"}, "messages[0].role"),
        ({"role": "assistant", "content": "", "tool_calls": [{"id": "x"}]}, "messages[0].tool_calls"),
        ("hello", "messages[0]"),
    ],
)
def test_messages_that_are_no_text_are_refused_by_name(server, message, param):
    answer = server.ask(messages=[message, *QUESTION])
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert answer.json()["error"]["message"].startswith(param)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"model": ...}, "model"),
        ({"messages": ...}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [*QUESTION, {"role": "assistant", "content": "네"}]}, "messages"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": MAX_CHOICES + 1}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"stop": ""}, "stop"),
        ({"stop": list("abcde")}, "stop"),
        ({"messages": [*QUESTION, {"role": "user", "content": ""}]}, "messages[1].content"),
        ({"messages": [{"role": "user", "content": "\0\u200b "}]}, "messages[0].content"),
        ({"seed": 2**63}, "seed"),
        ({"stream": "maybe"}, "stream"),
    ],
)
def test_what_is_no_request_is_refused_by_the_name_of_the_field(server, changes, param):
    answer = server.ask(**changes)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert param in error["message"] or error["message"].startswith("The last message")


@pytest.mark.parametrize("role", ["user", "system"])
def test_half_a_surrogate_pair_is_refused(server, role):
    # As clients write it that cut a string within an emoji.
    messages = [{"role": role, "content": "\ud83d"}, *QUESTION]
    answer = post_json(server, json.dumps({"model": "bot", "messages": messages}).encode())
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "messages[0].content")
    assert error["message"] == "messages[0].content: The text has half a surrogate pair (U+D83D)."


def test_a_list_of_too_many_stops_is_not_said_to_be_no_text(server):
    assert "a list of at most four" in server.ask(stop=list("abcde")).json()["error"]["message"]


def test_errors_have_one_shape_whatever_their_cause(server):
    for answer, status, code in (
        (server.client.get("/v2/nothing"), 404, "not_found"),
        (server.client.get("/v1/models/another/model"), 404, "model_not_found"),
        (server.client.get("/v1/chat/completions"), 405, "method_not_allowed"),
        (server.client.post("/v1/chat/completions", content=b"{"), 400, "invalid_json"),
        (post_json(server, b'{"model"'), 400, "invalid_json"),
        (post_json(server, b"\xff\xff{}"), 400, "invalid_json"),
        (post_json(server, b"[" * 100_000), 400, "invalid_json"),
        (post_json(server, b"5"), 400, "invalid_json"),
        (post_json(server, b""), 400, "invalid_json"),
        (server.ask("x" * 2**20), 413, "request_too_large"),
        (
            server.client.post("/v1/chat/completions", content=(b"x" * 2**16 for _ in range(17))),
            413,
            "request_too_large",
        ),
    ):
        assert answer.status_code == status
        assert set(answer.json()) == {"error"}
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert (error["type"], error["code"]) == ("invalid_request_error", code)
        assert error["message"] and answer.headers["x-request-id"]
    assert server.client.get("/v1/chat/completions").headers["allow"] == "POST"
    assert "POST /v1/chat/completions" in server.client.get("/").json()["error"]["message"]


def post_json(server, content):
    return server.client.post("/v1/chat/completions", content=content, headers={"Content-Type": "application/json"})


def test_a_failure_in_the_middle_of_a_stream_is_an_event(serve, slow, caplog):
    slow.engine.is_broken = lambda source: True
    with serve(slow) as server:
        whole = server.ask()
        assert (whole.status_code, whole.json()["error"]["type"]) == (500, "server_error")
        assert "cannot be read" not in whole.text and whole.headers["x-request-id"]
        streamed = server.ask(stream=True)
        last = streamed.text.strip().split("\n\n")[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"
    assert "this source cannot be read" in caplog.text
