"""The three lists of docs/serving.md: what is honoured, what is ignored, what is refused."""

import re
from pathlib import Path

import pytest

from chatformer.chat.serving.protocol import MAX_CHOICES, REFUSALS

ROOT = Path(__file__).parents[3]


# What the documentation lists as honoured: each name has its proof.


def with_limit(server, **limits):
    answer = server.ask(**limits).json()
    return answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]


def proves_model(server):
    answer = server.ask(model="another")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


def proves_messages(server):
    counts = [server.ask(text).json()["usage"]["prompt_tokens"] for text in ("따라 해 1 2", "따라 해 1 2 3 4")]
    assert counts[0] < counts[1]


def proves_stream(server):
    assert server.ask(stream=False).json()["object"] == "chat.completion"
    assert server.events()[0]["object"] == "chat.completion.chunk"


def proves_stream_options(server):
    assert server.events(stream_options={"include_usage": False})[-1]["choices"]
    refused = server.ask(stream_options={"include_usage": True})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "stream_options"


def proves_max_tokens(server):
    assert with_limit(server, max_tokens=2) == (2, "length")
    assert with_limit(server, max_tokens=10_000)[1] == "stop"
    assert server.events(max_tokens=2)[-1]["choices"][0]["finish_reason"] == "length"


def proves_max_completion_tokens(server):
    assert with_limit(server, max_completion_tokens=1, max_tokens=3) == (1, "length")
    assert with_limit(server, max_completion_tokens=3, max_tokens=1) == (3, "length")


def drawn(server, **changes):
    return server.ask(n=MAX_CHOICES, max_tokens=6, **changes).json()["choices"]


def texts(choices):
    return {choice["message"]["content"] for choice in choices}


def proves_temperature(server):
    assert len(texts(drawn(server, temperature=0))) == len(texts(drawn(server, temperature=1e-300))) == 1
    assert len(texts(drawn(server, temperature=2))) > 1


def proves_top_p(server):
    assert (
        len(texts(drawn(server, temperature=2, top_p=1e-6))) == len(texts(drawn(server, temperature=2, top_p=0))) == 1
    )


def proves_n(server):
    choices = server.ask(n=3, max_tokens=2).json()
    assert [choice["index"] for choice in choices["choices"]] == [0, 1, 2]
    assert choices["usage"]["completion_tokens"] == 6
    events = server.events(n=3, max_tokens=2)
    assert [event["choices"][0]["index"] for event in events[:3]] == [0, 1, 2]
    ended = [event["choices"][0] for event in events if event["choices"][0]["finish_reason"]]
    assert sorted(choice["index"] for choice in ended) == [0, 1, 2]


def proves_stop(server):
    whole = server.ask().json()["choices"][0]["message"]["content"]
    assert len(whole) > 3
    # Within the text, over the border of two tokens, and such that its beginning comes up earlier in vain.
    for stop in (whole[1], whole[1:3], whole[-1], [whole[2:4], "nowhere"], whole[0] + "x"):
        wanted = min((found for each in [stop, ""] for part in each if (found := whole.find(part)) >= 0), default=None)
        stops = [stop] if isinstance(stop, str) else stop
        wanted = min((whole.find(each) for each in stops if each in whole), default=len(whole))
        answer = server.ask(stop=stop).json()
        assert answer["choices"][0]["message"]["content"] == whole[:wanted]
        assert answer["choices"][0]["finish_reason"] == "stop"
        events = server.events(stop=stop, stream_options={"include_usage": True})
        streamed = "".join(event["choices"][0]["delta"].get("content", "") for event in events[:-1])
        assert streamed == whole[:wanted]
        assert events[-1]["usage"] == answer["usage"]
    assert server.ask(stop=[]).json()["choices"][0]["message"]["content"] == whole
    assert server.ask(stop=whole[:1]).json()["usage"]["completion_tokens"] == 1


def proves_seed(server):
    assert server.ask(seed=-5, temperature=0).status_code == 200
    if server.chatbot.engine.keeps_seeds:
        options = {"temperature": 2, "seed": 5}
        assert drawn(server, **options) == drawn(server, **options) != drawn(server, temperature=2, seed=6)
    else:
        refused = server.ask(temperature=2, seed=5)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "seed")


HONOURED = {name.removeprefix("proves_"): proof for name, proof in globals().items() if name.startswith("proves_")}


@pytest.mark.parametrize("name", HONOURED)
def test_what_is_honoured(any_server, name):
    HONOURED[name](any_server)


IGNORED = {
    "user": "민수",
    "metadata": {"a": "b"},
    "store": True,
    "service_tier": "flex",
    "safety_identifier": "x",
    "prompt_cache_key": "x",
    "prompt_cache_retention": "24h",
    "parallel_tool_calls": True,
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "functions": [{"name": "f"}],
    "prediction": {"type": "content", "content": "x"},
    "reasoning_effort": "low",
    "verbosity": "low",
    "audio": {"voice": "alloy", "format": "wav"},
    "top_k": 5,
}


@pytest.mark.parametrize("name", [*IGNORED, "an_unknown_key"])
def test_what_is_ignored(server, name):
    answer = server.ask(**{name: IGNORED.get(name, {"any": [None]})})
    assert answer.status_code == 200
    assert answer.json()["choices"] == server.ask().json()["choices"]


REFUSED = {
    "frequency_penalty": [0.5, -0.5],
    "presence_penalty": [1],
    "logit_bias": [{"5": 10}],
    "logprobs": [True],
    "top_logprobs": [0, 5],
    "response_format": [{"type": "json_object"}, {"type": "json_schema", "json_schema": {}}],
    "tool_choice": ["required", {"type": "function", "function": {"name": "f"}}],
    "function_call": [{"name": "f"}],
    "modalities": [["text", "video"]],
    "web_search_options": [{}],
}
HARMLESS = {
    "frequency_penalty": 0,
    "presence_penalty": 0.0,
    "logit_bias": {},
    "logprobs": False,
    "response_format": {"type": "text"},
    "tool_choice": "auto",
    "function_call": "none",
    "modalities": ["text"],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(server, name):
    for value in REFUSED[name]:
        answer = server.ask(**{name: value})
        assert answer.status_code == 400, value
        error = answer.json()["error"]
        assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", name, "unsupported_value")
        assert error["message"] == f"{name} {REFUSALS[name]}."
    for value in (None, *([HARMLESS[name]] if name in HARMLESS else [])):
        assert server.ask(**{name: value}).status_code == 200, value


def test_sound_of_another_format_is_refused_in_the_words_of_its_field(server):
    answer = server.ask(audio={"voice": "alloy", "format": "mp3"})
    assert answer.status_code == 400
    assert "format wav" in answer.json()["error"]["message"]


def listed(page, heading):
    """Return the names in the first column of the table under a heading of a page."""
    section = re.search(rf"^#+ {heading}$(.*?)(?=^#|\Z)", (ROOT / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert section is not None, heading
    rows = re.findall(r"^\| (`.*?) \|", section[1], re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([\w.]+)`", row)]


@pytest.mark.parametrize(
    ("page", "honoured", "ignored", "refused"),
    [
        ("docs/serving.md", "What is honoured", "What is ignored", "What is refused"),
        ("docs/ko/serving.md", "따르는 것", "무시하는 것", "거절하는 것"),
    ],
)
def test_the_three_lists_of_the_documentation_are_those_that_are_tested(page, honoured, ignored, refused):
    assert sorted(listed(page, honoured)) == sorted(HONOURED)
    assert sorted(listed(page, ignored)) == sorted(set(IGNORED) - {"top_k"})
    assert sorted(listed(page, refused)) == sorted(REFUSED)
