import re
import time
from pathlib import Path

import pytest

from chatformer.configuration.replies import ReplySettings
from chatformer.conversation import encode_conversation, turn

ROOT = Path(__file__).parents[3]
GREEDY = ReplySettings()
QUESTION = [{"role": "user", "content": "따라 해 1 2"}]


@pytest.fixture
def read(server, monkeypatch):
    """Return the list of the sources that the model gets to read, in ids."""
    sources, generate = [], server.chatbot.engine.generate

    def reading(batch, *arguments):
        sources.extend(list(source) for source in batch)
        return generate(batch, *arguments)

    monkeypatch.setattr(server.chatbot.engine, "generate", reading)
    return sources


def test_a_whole_answer(any_server):
    answer = any_server.ask(temperature=0)
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"id", "object", "created", "model", "choices", "usage"}
    assert (body["object"], body["model"]) == ("chat.completion", "bot")
    assert re.fullmatch(r"chatcmpl-\w+", body["id"]) and body["created"] > 1_700_000_000
    reply = any_server.chatbot.reply(QUESTION, GREEDY)
    message = {"role": "assistant", "content": reply, "refusal": None}
    assert body["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
    assert any_server.ask().json()["id"] != body["id"]


def test_counts_are_those_of_the_ids(any_server):
    chatbot = any_server.chatbot
    source = encode_conversation(chatbot.tokenizer, QUESTION)
    (reply,) = chatbot.engine.generate([source], GREEDY.search())
    usage = {
        "prompt_tokens": len(source),
        "completion_tokens": len(reply),
        "total_tokens": len(source) + len(reply),
    }
    assert any_server.ask().json()["usage"] == usage
    assert any_server.events(stream_options={"include_usage": True})[-1]["usage"] == usage


def test_a_streamed_answer(any_server):
    events = any_server.events()
    assert len({(event["id"], event["created"], event["model"], event["object"]) for event in events}) == 1
    assert events[0]["object"] == "chat.completion.chunk"
    assert all("usage" not in event and len(event["choices"]) == 1 for event in events)
    choices = [event["choices"][0] for event in events]
    assert [choice["delta"].get("role") for choice in choices] == ["assistant"] + [None] * (len(choices) - 1)
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]
    assert choices[0]["delta"]["content"] == "" and choices[-1]["delta"] == {}
    text = "".join(choice["delta"].get("content", "") for choice in choices)
    assert text == any_server.ask().json()["choices"][0]["message"]["content"]


def test_text_is_sent_as_soon_as_it_is_known(serve, slow):
    with serve(slow) as server:
        body = {"model": "bot", "messages": QUESTION, "stream": True, "max_tokens": 40}
        with server.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            times = [time.monotonic() for line in answer.iter_lines() if line]
    assert len(times) > 10 and times[-1] - times[0] > 0.2


def test_the_last_event_has_the_counts_if_they_are_asked_for(server):
    *events, last = server.events(stream_options={"include_usage": True})
    assert last["choices"] == [] and last["usage"]["completion_tokens"] > 0
    assert all(event["usage"] is None for event in events)


@pytest.mark.parametrize(
    "messages",
    [
        QUESTION,
        [{"role": "user", "content": [{"type": "text", "text": "따라 해 "}, {"type": "text", "text": "1 2"}]}],
        [{"role": "system", "content": "짧게"}, *QUESTION],
        [
            {"role": "user", "content": "따라 해 3 4", "name": "민수"},
            {"role": "assistant", "content": "네, 3 4"},
            *QUESTION,
        ],
        [*({"role": role, "content": "다시 " * 10} for role in ("user", "assistant") * 6), *QUESTION],
        [{"role": "user", "content": "  따라 해 1 2\n"}],
        [{"role": "system", "content": ""}, *QUESTION],
    ],
)
def test_a_conversation_has_the_ids_and_the_reply_that_it_has_in_a_chat(server, read, messages):
    plain = [turn(message["role"], message["content"]) for message in messages if message["content"]]
    reply = server.ask(messages=messages).json()["choices"][0]["message"]["content"]
    expected = encode_conversation(server.chatbot.tokenizer, plain, server.chatbot.max_source_tokens)
    assert read == [expected]
    assert reply == server.chatbot.reply(plain, GREEDY)


def test_developer_is_system_and_decomposed_hangul_is_composed(server, read):
    server.ask(messages=[{"role": "system", "content": "짧게"}, *QUESTION])
    server.ask(messages=[{"role": "developer", "content": "짧게"}, *QUESTION])
    decomposed = "\u1104\u1161\u1105\u1161 \u1112\u1162 1 2"
    server.ask(decomposed)
    server.ask()
    assert read[0] == read[1] != read[2] == read[3]


def test_every_answer_has_an_id_and_a_clients_own_is_kept(server):
    ids = [server.client.get("/health").headers["x-request-id"] for _ in range(2)]
    assert len(set(ids)) == 2
    for given, is_kept in (("mine-1.2:3", True), ("a b", False), ("x" * 200, False)):
        answer = server.client.get("/health", headers={"x-request-id": given})
        assert (answer.headers["x-request-id"] == given) is is_kept


def test_the_models(server):
    listed = server.client.get("/v1/models").json()
    assert (listed["object"], len(listed["data"])) == ("list", 1)
    (model,) = listed["data"]
    assert (model["id"], model["object"], model["owned_by"]) == ("bot", "model", "chatformer")
    assert server.client.get("/v1/models/bot").json() == model


def test_figures_for_prometheus(server):
    def figures():
        lines = server.client.get("/metrics").text.splitlines()
        return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))

    before = figures()
    server.ask(max_tokens=2)
    server.events(max_tokens=2)
    server.client.get("/nowhere/1")
    after = figures()

    def grown(name):
        return float(after[name]) - float(before.get(name, 0))

    # A client has its last byte a moment before the server has counted the answer, and the engine ended the reply.
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and (
        grown("chatformer_request_seconds_count") < 2 or float(after["chatformer_replies_running"])
    ):
        time.sleep(0.05)
        after = figures()
    assert grown('chatformer_requests_total{route="/v1/chat/completions",status="200"}') == 2
    assert grown('chatformer_requests_total{route="other",status="404"}') == 1
    assert grown("chatformer_completion_tokens_total") == 4
    assert grown("chatformer_first_text_seconds_count") == 1
    assert grown("chatformer_request_seconds_count") == 2
    assert grown("chatformer_batch_rows_sum") == 2
    assert grown("chatformer_hang_ups_total") == 0
    assert float(after["chatformer_replies_running"]) == float(after["chatformer_replies_waiting"]) == 0


def test_a_key_is_needed_where_one_is_set(serve, chatbot):
    key = "열쇠-1"
    with serve(chatbot, api_key=key, cors_origins=("https://example.org",)) as server:
        assert server.ask(max_tokens=1).status_code == 200
        for wrong in ("", "Bearer", f"Bearer {key}x", f"Basic {key}", key):
            for route in ("/v1/models", "/v1/nothing"):
                answer = server.client.get(route, headers={"Authorization": wrong.encode()})
                assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
                assert answer.headers["www-authenticate"] == "Bearer"
        assert server.client.get("/health", headers={"Authorization": ""}).status_code == 200
        # A browser asks without the key whether it may ask.
        asked = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
        allowed = server.client.options("/v1/chat/completions", headers=asked | {"Authorization": ""})
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://example.org"
        refused = server.client.get("/v1/models", headers={"Authorization": "", "Origin": "https://example.org"})
        assert refused.headers["access-control-allow-origin"] == "https://example.org"


def test_no_other_site_may_ask_unless_it_is_allowed(server):
    answer = server.client.get("/v1/models", headers={"Origin": "https://example.org"})
    assert "access-control-allow-origin" not in answer.headers


def test_defaults_are_the_servers_and_a_system_message_is_the_clients(serve, chatbot):
    with serve(chatbot, system="짧게", reply=ReplySettings(max_new_tokens=3)) as server:
        for limit in (..., 10):
            answer = server.ask(max_tokens=limit).json()
            assert answer["usage"]["completion_tokens"] == 3
            assert answer["choices"][0]["finish_reason"] == "length"
        with_system = [{"role": "system", "content": "짧게"}, *QUESTION]
        counts = [server.ask(messages=each).json()["usage"]["prompt_tokens"] for each in (QUESTION, with_system)]
        assert counts[0] == counts[1]
