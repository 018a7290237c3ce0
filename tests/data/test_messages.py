import csv
import json

import datasets
import pytest

from chatformer.data.conversations import load_conversations
from chatformer.data.messages import exchanges

GREETING = [{"role": "user", "content": "안녕"}, {"role": "assistant", "content": "반가워요"}]
TWO_TURNS = [
    {"role": "system", "content": "짧게 답한다."},
    {"role": "user", "content": "안녕"},
    {"role": "assistant", "content": "네"},
    {"role": "user", "content": "뭐 해?"},
    {"role": "assistant", "content": "쉬어요"},
]


def test_sharegpt_names():
    turns = [("system", "짧게 답한다."), ("human", "안녕"), ("gpt", "네"), ("human", "뭐 해?"), ("gpt", "쉬어요")]
    conversation = [{"from": name, "value": text} for name, text in turns]
    dataset = datasets.Dataset.from_dict({"conversations": [conversation]})
    assert list(load_conversations(dataset).conversations["messages"]) == [TWO_TURNS]


def test_a_csv_cell_holds_messages_as_json(tmp_path):
    with (tmp_path / "chats.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["messages"], [json.dumps(TWO_TURNS)]])
    assert list(load_conversations(tmp_path / "chats.csv").conversations["messages"]) == [TWO_TURNS]


def turns(*names: str) -> list[dict[str, str]]:
    return [{"role": name, "content": "글"} for name in names]


@pytest.mark.parametrize(
    ("conversation", "reason"),
    [
        (turns("user", "assistant", "user"), "has no answer"),
        (turns("system"), "has no answer"),
        (turns("system", "user"), "has no answer"),
        (turns("assistant", "user", "assistant"), "message 1 is of the assistant, where the user speaks"),
        (turns("system", "assistant"), "message 2 is of the assistant, where the user speaks"),
        (turns("user", "user", "assistant"), "message 2 is of the user, where the assistant speaks"),
        (turns("user", "assistant", "assistant"), "message 3 is of the assistant, where the user speaks"),
        (
            turns("user", "assistant", "system", "user", "assistant"),
            "message 3 is of the system, where the user speaks",
        ),
        (turns("user", "tool", "assistant"), "message 2 has the role 'tool'"),
        (turns("user", "narrator"), "message 2 has the role 'narrator'"),
        ([{"from": "human", "value": "글"}, {"from": "narrator", "value": "글"}], "message 2 has the from 'narrator'"),
        ([*turns("user"), {"role": "assistant", "content": " \n"}], "message 2, of the assistant, is empty"),
        ([*turns("user"), {"role": "assistant", "content": None}], "message 2, of the assistant, is missing"),
        ([*turns("user"), {"role": "assistant"}], "message 2, of the assistant, is missing"),
        (
            [*turns("user"), {"role": "assistant", "content": ["글"]}],
            "message 2, of the assistant, is not text but list",
        ),
        ([{"role": ["user"], "content": "글"}], "message 1 has the role ['user']"),
        ([*turns("user"), "글"], "message 2 is not an object"),
        ([{"content": "글"}], "message 1 has the role None"),
        (
            [*turns("user"), {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}],
            "message 2, of the assistant, has tool_calls, which cannot be read",
        ),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, *turns("assistant")],
            "message 1, of the user, has a part that is not text but 'image_url'",
        ),
        (["글", "글", "글"], "the last message, of the user, has no answer"),
        (["글", " "], "message 2, of the assistant, is empty"),
        ([{"speaker": name, "utterance": "글"} for name in "ABC"], "message 1 has the speaker 'A'"),
        ([], "the messages are missing"),
        (None, "the messages are missing"),
        ({"role": "user"}, "the messages are not a list but dict"),
        ("글", "not a JSON list"),
    ],
)
def test_messages_that_are_no_conversation(error_of, written, tmp_path, conversation, reason):
    lines = [json.dumps({"messages": messages}) for messages in (GREETING, conversation)]
    message = error_of(written(tmp_path / "chats.jsonl", "\n".join(lines)))
    assert "1 of 2 rows" in message
    assert "chats.jsonl, row 2: " in message and reason in message


def test_text_is_normalised_and_stripped(pairs, written, tmp_path):
    taken_apart = "\u1112\u1161\u11ab\u1100\u1173\u11af"
    path = written(tmp_path / "chats.csv", f'Q,A\n\u3000{taken_apart} ,"\n네  네\t"\n')
    assert pairs(path) == [("한글", "네  네")]


@pytest.mark.parametrize("value", [None, float("nan"), "", " \u3000", 3, True, "\ud83d"])
@pytest.mark.parametrize("column", ["Q", "A"])
def test_questions_and_answers_must_be_text(error_of, written, tmp_path, column, value):
    good = {"Q": "안녕", "A": "네"}
    records = [good, {**good, column: value}, good]
    path = written(tmp_path / "chats.json", json.dumps(records))
    message = error_of(path)
    assert f"{path}, row 2: the {'question' if column == 'Q' else 'answer'} " in message
    assert ("is missing" in message) == (value is None or value != value)
    assert "1 of 3 rows" in message


def test_exchanges():
    assert list(exchanges(TWO_TURNS)) == [(TWO_TURNS[:2], "네"), (TWO_TURNS[:4], "쉬어요")]
    assert list(exchanges(GREETING)) == [(GREETING[:1], "반가워요")]


@pytest.mark.parametrize(
    ("names", "roles"),
    [
        (["user", "system"], ["user", "assistant"]),
        (["Human", "Bot"], ["user", "assistant"]),
        (["고객", "상담사"], ["user", "assistant"]),
        (["민지", "현우", "민지", "현우"], ["user", "assistant", "user", "assistant"]),
        ([2, 1], ["user", "assistant"]),
        (["system", "user", "assistant"], ["system", "user", "assistant"]),
    ],
)
@pytest.mark.parametrize("text_key", ["utterance", "text"])
def test_speakers_and_their_utterances(written, tmp_path, names, roles, text_key):
    talk = [{"speaker": name, text_key: "글"} for name in names]
    path = written(tmp_path / "talks.json", json.dumps({"dialogs": [{"id": 1, "conversation": talk}]}))
    (messages,) = load_conversations(path).conversations["messages"]
    assert messages == [{"role": role, "content": "글"} for role in roles]


def test_lists_of_texts_are_turns(written, tmp_path):
    talks = [["안녕", "반가워요"], ["안녕", "네", "뭐 해?", "쉬어요"]]
    expected = [GREETING, TWO_TURNS[1:]]
    for name, content in {
        "talks.jsonl": "\n".join(json.dumps({"dialog": talk}) for talk in talks),
        "talks.json": json.dumps(talks),
    }.items():
        assert list(load_conversations(written(tmp_path / name, content)).conversations["messages"]) == expected


def test_parts_of_a_content_are_joined():
    parts = [[{"type": "text", "text": "안"}, {"type": "text", "text": "녕"}], [{"type": "text", "text": "반가워요"}]]
    talk = [{"role": role, "content": content} for role, content in zip(("user", "assistant"), parts, strict=True)]
    assert list(load_conversations(datasets.Dataset.from_dict({"messages": [talk]})).conversations["messages"]) == [
        GREETING
    ]


@pytest.mark.parametrize("content", ["", " ", "\u200b", None])
def test_an_empty_system_message_is_none(written, tmp_path, content):
    talk = [{"role": "system", "content": content}, *GREETING]
    path = written(tmp_path / "chats.jsonl", json.dumps({"messages": talk}))
    assert list(load_conversations(path).conversations["messages"]) == [GREETING]


@pytest.mark.parametrize(
    "answer", ["\u3164", "\u200b\u200b", "\u2060", "\u2800", "\u00ad", "\ufe0f", "\ufeff"], ids=ascii
)
def test_what_only_looks_empty_is_empty(error_of, written, tmp_path, answer):
    good = {"Q": "안녕", "A": "네"}
    path = written(tmp_path / "chats.jsonl", "\n".join(map(json.dumps, (good, {"Q": "안녕", "A": answer}))))
    assert "row 2: the answer is empty" in error_of(path)
    talk = [{"role": "user", "content": answer}, {"role": "assistant", "content": "네"}]
    path = written(tmp_path / "talks.json", json.dumps([GREETING, talk]))
    assert "row 2: message 1, of the user, is empty" in error_of(path)


def test_several_right_answers_are_not_joined(error_of):
    data = datasets.Dataset.from_dict({"Q": ["안녕", "뭐 해?"], "A": [["네"], ["네", "아니요"]]})
    assert "row 2: the answer is not text but list" in error_of(data)
