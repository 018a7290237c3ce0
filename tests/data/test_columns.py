import json

import datasets
import pytest

from chatformer.data.conversations import load_conversations

TWO_TURNS = [
    {"role": "system", "content": "짧게 답한다."},
    {"role": "user", "content": "안녕"},
    {"role": "assistant", "content": "네"},
    {"role": "user", "content": "뭐 해?"},
    {"role": "assistant", "content": "쉬어요"},
]
PAIRS = [("안녕", "반가워요"), ("뭐 해?", "쉬어요")]


def test_columns_that_are_not_read_are_not_decoded(pairs):
    dataset = datasets.Dataset.from_dict({"Q": ["안녕"], "A": ["반가워요"], "picture": [{"bytes": b"?", "path": None}]})
    assert pairs(dataset.cast_column("picture", datasets.Image())) == PAIRS[:1]


@pytest.mark.parametrize(
    "names",
    [
        ("Q", "A"),
        ("Question", "ANSWER"),
        ("questions", "answers"),
        ("source", "target"),
        ("src", "tgt"),
        ("prompt", "completion"),
        ("input", "output"),
        ("instruction", "response"),
        ("user", "assistant"),
        ("utterance", "reply"),
        ("query", "bot"),
        ("질문", "답변"),
        ("text_a", "text_b"),
        # As a Mac writes Korean: each syllable taken apart.
        (" \u110c\u1175\u11af\u1106\u116e\u11ab ", "\u1103\u1161\u11b8\u1107\u1167\u11ab"),
    ],
)
def test_usual_names(pairs, names):
    dataset = datasets.Dataset.from_dict({"id": [1], names[1]: ["반가워요"], names[0]: ["안녕"]})
    assert pairs(dataset) == PAIRS[:1]


@pytest.mark.parametrize("name", ["messages", "conversations", "Dialog", "dialogue"])
def test_usual_names_of_messages(name):
    dataset = datasets.Dataset.from_dict({name: [TWO_TURNS], "id": [1]})
    assert list(load_conversations(dataset).conversations["messages"]) == [TWO_TURNS]


def test_a_source_beside_question_and_answer_is_no_question(pairs):
    dataset = datasets.Dataset.from_dict({"source": ["a book"], "question": ["안녕"], "answer": ["반가워요"]})
    assert pairs(dataset) == PAIRS[:1]


def test_named_columns(pairs, error_of):
    dataset = datasets.Dataset.from_dict({"formal": ["안녕"], "Q": ["x"], "answer": ["반가워요"], "A": ["y"]})
    assert pairs(dataset, question_column="formal", answer_column="answer") == PAIRS[:1]
    assert pairs(dataset.remove_columns("A"), question_column="formal") == PAIRS[:1]
    assert pairs(dataset.remove_columns("Q"), question_column="formal", answer_column="answer")
    assert pairs(dataset.remove_columns(["Q", "A"]), question_column="formal") == PAIRS[:1]
    twice = dataset.select_columns(["answer", "A"])
    assert pairs(twice, question_column="A") == [("y", "반가워요")]
    talks = datasets.Dataset.from_dict({"Q": ["x"], "A": ["y"], "talk": [TWO_TURNS]})
    assert list(load_conversations(talks, messages_column="talk").conversations["messages"]) == [TWO_TURNS]
    assert "not both" in error_of(talks, messages_column="talk", question_column="Q")
    assert "both the question and the answer" in error_of(talks, question_column="Q", answer_column="Q")


@pytest.mark.parametrize("flag", ["question_column", "answer_column", "messages_column"])
def test_a_name_that_is_not_there(error_of, flag):
    dataset = datasets.Dataset.from_dict({"Frage": ["x"], "Answer": ["y"], "label": [0]})
    message = error_of(dataset, **{flag: "answer"})
    assert "no column 'answer'" in message
    assert "Frage, Answer, label" in message
    assert "Did you mean 'Answer'?" in message


@pytest.mark.parametrize(
    "columns",
    [
        ["left", "right"],
        ["Q", "label"],
        ["instruction", "prompt", "output"],
        ["Q", "A", "messages"],
        ["source", "answer"],
    ],
)
def test_unclear_columns(error_of, columns):
    message = error_of(datasets.Dataset.from_dict({column: ["x"] for column in columns}))
    assert ", ".join(columns) in message
    for flag in ("--question-column", "--answer-column", "--messages-column"):
        assert flag in message


SYSTEM = "짧게 답한다."
TALK = [{"from": "human", "value": "안녕"}, {"from": "gpt", "value": "네"}]


def conversation(question: str, answer: str, system: str = "") -> list[dict[str, str]]:
    start = [{"role": "system", "content": system}] if system else []
    return [*start, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize("name", ["system", "System_Prompt", "시스템"])
def test_a_system_message_apart_from_the_conversation(name):
    rows = {"conversations": [TALK] * 4, name: [SYSTEM, "", None, " \u3164"]}
    expected = [conversation("안녕", "네", SYSTEM), *[conversation("안녕", "네")] * 3]
    assert list(load_conversations(datasets.Dataset.from_dict(rows)).conversations["messages"]) == expected
    rows = {"Q": ["안녕", "안녕"], "A": ["네", "네"], name: [SYSTEM, None]}
    assert list(load_conversations(datasets.Dataset.from_dict(rows)).conversations["messages"]) == expected[:2]


def test_two_system_messages(error_of):
    own = [{"role": "system", "content": SYSTEM}, *conversation("안녕", "네")]
    dataset = datasets.Dataset.from_dict({"messages": [own, own], "system": [SYSTEM, "길게 답한다."]})
    assert "row 2: there are two system messages" in error_of(dataset)
    loaded = load_conversations(dataset, skip_bad_rows=True)
    assert list(loaded.conversations["messages"]) == [conversation("안녕", "네", SYSTEM)]


@pytest.mark.parametrize("names", [("instruction", "input"), ("instruction", "context"), ("question", "Context")])
def test_what_a_question_is_about_is_read_with_it(pairs, written, tmp_path, names):
    question, context = names
    dataset = datasets.Dataset.from_dict(
        {context: ["Guten Tag", "", None], question: ["Translate.", "Hello", "Bye"], "output": ["안녕", "네", "응"]}
    )
    expected = [("Translate.\n\nGuten Tag", "안녕"), ("Hello", "네"), ("Bye", "응")]
    assert pairs(dataset) == expected
    assert pairs(dataset.rename_column(context, "about"), context_column="about") == expected
    assert pairs(dataset, question_column=question, answer_column="output") == expected


def test_columns_of_system_and_context_that_are_named(error_of):
    dataset = datasets.Dataset.from_dict({"Q": ["안녕"], "A": ["네"], "tone": [SYSTEM], "system": ["x"]})
    messages = load_conversations(dataset, system_column="tone").conversations["messages"]
    assert list(messages) == [conversation("안녕", "네", SYSTEM)]
    assert "no column 'tome'" in error_of(dataset, system_column="tome")
    talks = datasets.Dataset.from_dict({"messages": [TALK], "about": ["x"]})
    assert "--context-column" in error_of(talks, context_column="about")


def test_columns_that_cannot_be_read_are_named_once_with_their_rows(pairs, written, tmp_path, caplog):
    records = [
        {"Q": "안녕", "A": "반가워요", "tools": '[{"name": "f"}]', "images": ["a.png"], "label": 1, "history": []},
        {"Q": "뭐 해?", "A": "쉬어요", "tools": "", "images": ["b.png"], "label": 1, "history": []},
    ]
    written(tmp_path / "chats.json", json.dumps(records))
    warning = "not read, although answers may depend on it: the columns tools (1 rows), images (2 rows)."
    for data in (tmp_path / "chats.json", datasets.Dataset.from_list(records)):
        caplog.clear()
        assert pairs(data) == PAIRS
        assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [warning]
    caplog.clear()
    assert pairs(datasets.Dataset.from_list(records).to_iterable_dataset()) == PAIRS
    assert "tools (not counted in a stream)" in caplog.text


def test_columns_that_are_not_read_are_no_reason_to_warn(pairs, caplog):
    assert pairs(datasets.Dataset.from_dict({"Q": ["안녕"], "A": ["네"], "label": [0], "source": ["book"]}))
    assert not caplog.records


@pytest.mark.parametrize("form", ["file", "dataset", "stream"])
def test_translations(pairs, error_of, written, tmp_path, caplog, form):
    records = [{"translation": {"en": "Hello.", "ko": "안녕."}}, {"translation": {"ko": "잘 자.", "en": "Good night."}}]
    data = written(tmp_path / "pairs.jsonl", "\n".join(map(json.dumps, records)))
    if form != "file":
        languages = datasets.Features({"translation": datasets.Translation(languages=["en", "ko"])})
        data = datasets.Dataset.from_list(records, features=languages)
    if form == "stream":
        data = data.to_iterable_dataset()
    english = [("Hello.", "안녕."), ("Good night.", "잘 자.")]
    assert pairs(data) == english
    assert "from en to ko" in caplog.text and "--question-column ko --answer-column en" in caplog.text
    caplog.clear()
    assert pairs(data, question_column="ko") == [(ko, en) for en, ko in english]
    assert pairs(data, question_column="en", answer_column="ko") == english
    assert not caplog.records
    assert "both the question and the answer" in error_of(data, question_column="en", answer_column="en")
    assert "no column 'de'" in error_of(data, question_column="de")


def test_translations_into_several_languages(pairs, error_of, written, tmp_path):
    records = [{"translation": {"en": "Hello.", "ko": "안녕.", "de": "Hallo."}}, {"translation": {"en": "Bye."}}, {}]
    data = written(tmp_path / "pairs.jsonl", "\n".join(map(json.dumps, records)))
    assert "has en, ko, de. Name two" in error_of(data)
    message = error_of(data, question_column="ko", answer_column="de")
    assert "row 2: the question is missing" in message and "row 3: the translation is no object" in message
    assert pairs(data, question_column="ko", answer_column="de", skip_bad_rows=True) == [("안녕.", "Hallo.")]
