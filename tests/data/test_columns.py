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
        ["instruction", "input", "output"],
        ["Q", "A", "messages"],
        ["source", "answer"],
    ],
)
def test_unclear_columns(error_of, columns):
    message = error_of(datasets.Dataset.from_dict({column: ["x"] for column in columns}))
    assert ", ".join(columns) in message
    for flag in ("--question-column", "--answer-column", "--messages-column"):
        assert flag in message
