import codecs
import csv
import gzip
import hashlib
import json
import logging
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import pytest

from chatformer.data import conversations
from chatformer.data.conversations import DataError, exchanges, load_conversations, split_conversations

SONGYS = Path(__file__).parents[2].parent / "shared" / "data" / "songys_chatbot" / "ChatbotData.csv"

GREETING = [{"role": "user", "content": "안녕"}, {"role": "assistant", "content": "반가워요"}]
TWO_TURNS = [
    {"role": "system", "content": "짧게 답한다."},
    {"role": "user", "content": "안녕"},
    {"role": "assistant", "content": "네"},
    {"role": "user", "content": "뭐 해?"},
    {"role": "assistant", "content": "쉬어요"},
]


def pairs_of(conversations: datasets.Dataset) -> list[tuple[str, str]]:
    return [(question["content"], answer["content"]) for question, answer in conversations["messages"]]


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def dataset_of(*questions: str) -> datasets.Dataset:
    return load_conversations(datasets.Dataset.from_dict({"Q": list(questions), "A": ["네"] * len(questions)}))


def error_of(data, **options) -> str:
    with pytest.raises(DataError) as caught:
        load_conversations(data, **options)
    return str(caught.value)


def test_importing_is_quick_and_needs_neither_torch_nor_datasets():
    program = "import sys, chatformer.data.conversations; sys.exit(bool({'torch', 'datasets'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# Every format has the same two conversations.

RECORDS = [{"Q": "안녕", "A": "반가워요", "label": 0}, {"Q": "뭐 해?", "A": "쉬어요", "label": 1}]
PAIRS = [("안녕", "반가워요"), ("뭐 해?", "쉬어요")]
TEXTS = {
    "chats.csv": "Q,A,label\n안녕,반가워요,0\n뭐 해?,쉬어요,1\n",
    "chats.tsv": "Q\tA\tlabel\r\n안녕\t반가워요\t0\r\n뭐 해?\t쉬어요\t1\r\n",
    "chats.json": json.dumps(RECORDS),
    "chats.jsonl": "\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS),
    "chats.ndjson": "\n\n".join(json.dumps(record) for record in RECORDS) + "\n",
    "CHATS.CSV": "Q,A\n안녕,반가워요\n뭐 해?,쉬어요",
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("name", TEXTS)
def test_text_formats(tmp_path, name, packed):
    content = TEXTS[name].encode("utf-8")
    path = tmp_path / (name + ".gz" * packed)
    path.write_bytes(gzip.compress(content) if packed else content)
    conversations = load_conversations(path)
    assert conversations.column_names == ["messages"]
    assert pairs_of(conversations) == PAIRS
    assert conversations[0]["messages"] == GREETING
    assert pairs_of(load_conversations([str(path)])) == PAIRS


def test_parquet(tmp_path):
    datasets.Dataset.from_list(RECORDS).to_parquet(tmp_path / "chats.parquet")
    assert pairs_of(load_conversations(tmp_path / "chats.parquet")) == PAIRS
    messages = datasets.Dataset.from_dict({"messages": [TWO_TURNS, GREETING]})
    messages.to_parquet(tmp_path / "messages.parquet")
    assert list(load_conversations(tmp_path / "messages.parquet")["messages"]) == [TWO_TURNS, GREETING]
    assert "fake.parquet cannot be read as Parquet" in error_of(written(tmp_path / "fake.parquet", "Q,A\n"))


def test_dataset_objects(tmp_path):
    dataset = datasets.Dataset.from_list(RECORDS)
    dataset.save_to_disk(tmp_path / "saved")
    assert pairs_of(load_conversations(datasets.load_from_disk(tmp_path / "saved"))) == PAIRS
    messages = datasets.Dataset.from_dict({"messages": [TWO_TURNS]}).with_format("numpy")
    assert list(load_conversations(messages)["messages"]) == [TWO_TURNS]
    splits = datasets.DatasetDict({"train": dataset, "test": dataset.select([1])})
    assert pairs_of(load_conversations(splits)) == PAIRS
    assert pairs_of(load_conversations(splits, split="test")) == PAIRS[1:]
    message = error_of(splits, split="dev")
    assert "'dev'" in message and "train, test" in message
    with pytest.raises(TypeError, match="int"):
        load_conversations(3)


def test_a_dataset_folder_is_read_with_datasets(tmp_path):
    (tmp_path / "folder").mkdir()
    written(tmp_path / "folder" / "train.csv", TEXTS["chats.csv"])
    loaded = datasets.load_dataset(str(tmp_path / "folder"), cache_dir=str(tmp_path / "cache"))
    assert pairs_of(load_conversations(loaded)) == PAIRS


def test_columns_that_are_not_read_are_not_decoded():
    dataset = datasets.Dataset.from_dict({"Q": ["안녕"], "A": ["반가워요"], "picture": [{"bytes": b"?", "path": None}]})
    assert pairs_of(load_conversations(dataset.cast_column("picture", datasets.Image()))) == PAIRS[:1]


def test_parallel_files(tmp_path):
    # U+2028 and the vertical tab end a line for str.splitlines, but for no editor.
    questions = written(tmp_path / "train.question", "안\u2028녕\x0b!\r\n뭐 해?\r\n")
    answers = tmp_path / "train.answer.gz"
    answers.write_bytes(gzip.compress("반가워요\n쉬어요".encode()))
    expected = [("안\u2028녕\x0b!", "반가워요"), PAIRS[1]]
    assert pairs_of(load_conversations([questions, answers])) == expected
    assert pairs_of(load_conversations((str(questions), str(answers)))) == expected


def test_parallel_files_of_different_lengths_or_kinds(tmp_path):
    two = written(tmp_path / "two.txt", "a\nb\n")
    three = written(tmp_path / "three.txt", "a\nb\n\n")
    message = error_of([two, three])
    assert f"{two} has 2 lines" in message and f"{three} has 3" in message
    table = written(tmp_path / "chats.csv", TEXTS["chats.csv"])
    assert "Found 2 files" in error_of([table, table])
    assert "Found 3 files" in error_of([two, two, two])
    assert "Found 0 files" in error_of([])
    assert "two files of plain text" in error_of(two)
    assert "sha256 is of one file" in error_of([two, two], sha256="0" * 64)


def test_an_empty_line_names_the_file_it_stands_in(tmp_path):
    questions = written(tmp_path / "q.txt", "a\n\nc\n")
    answers = written(tmp_path / "a.txt", "a\nb\n \n")
    message = error_of([questions, answers])
    assert f"{questions}, row 2: the question is empty" in message
    assert f"{answers}, row 3: the answer is empty" in message


@pytest.mark.parametrize(
    "document",
    [
        {"version": "1", "data": RECORDS, "tags": ["a", "b"], "empty": []},
        [GREETING, [{"from": "human", "value": "뭐 해?"}, {"from": "gpt", "value": "쉬어요"}]],
        {
            "conversations": [
                GREETING,
                [{"role": "user", "content": "뭐 해?"}, {"role": "assistant", "content": "쉬어요"}],
            ]
        },
    ],
    ids=["object-with-records", "list-of-conversations", "object-with-conversations"],
)
def test_shapes_of_json(tmp_path, document):
    assert pairs_of(load_conversations(written(tmp_path / "chats.json", json.dumps(document)))) == PAIRS


@pytest.mark.parametrize("document", ['"text"', "{}", "[]", '{"a": [{}], "b": [{}]}', '{"Q": ["a"], "A": ["b"]}', "3"])
def test_json_without_one_list_of_records(tmp_path, document):
    assert "chats.json" in error_of(written(tmp_path / "chats.json", document))


def test_broken_json_names_the_line(tmp_path):
    assert "row 3, column" in error_of(written(tmp_path / "a.json", '[\n{"Q": "a", "A": "b"},\n{"Q": "c" "A": "d"}\n]'))
    assert "name it .jsonl" in error_of(written(tmp_path / "b.json", TEXTS["chats.jsonl"]))
    assert "deep.json" in error_of(written(tmp_path / "deep.json", "[" * 200_000))


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
def test_usual_names(names):
    dataset = datasets.Dataset.from_dict({"id": [1], names[1]: ["반가워요"], names[0]: ["안녕"]})
    assert pairs_of(load_conversations(dataset)) == PAIRS[:1]


@pytest.mark.parametrize("name", ["messages", "conversations", "Dialog", "dialogue"])
def test_usual_names_of_messages(name):
    assert list(load_conversations(datasets.Dataset.from_dict({name: [TWO_TURNS], "id": [1]}))["messages"]) == [
        TWO_TURNS
    ]


def test_a_source_beside_question_and_answer_is_no_question():
    dataset = datasets.Dataset.from_dict({"source": ["a book"], "question": ["안녕"], "answer": ["반가워요"]})
    assert pairs_of(load_conversations(dataset)) == PAIRS[:1]


def test_named_columns():
    dataset = datasets.Dataset.from_dict({"formal": ["안녕"], "Q": ["x"], "answer": ["반가워요"], "A": ["y"]})
    assert pairs_of(load_conversations(dataset, question_column="formal", answer_column="answer")) == PAIRS[:1]
    assert pairs_of(load_conversations(dataset.remove_columns("A"), question_column="formal")) == PAIRS[:1]
    assert pairs_of(load_conversations(dataset.remove_columns("Q"), question_column="formal", answer_column="answer"))
    assert pairs_of(load_conversations(dataset.remove_columns(["Q", "A"]), question_column="formal")) == PAIRS[:1]
    twice = dataset.select_columns(["answer", "A"])
    assert pairs_of(load_conversations(twice, question_column="A")) == [("y", "반가워요")]
    talks = datasets.Dataset.from_dict({"Q": ["x"], "A": ["y"], "talk": [TWO_TURNS]})
    assert list(load_conversations(talks, messages_column="talk")["messages"]) == [TWO_TURNS]
    assert "not both" in error_of(talks, messages_column="talk", question_column="Q")
    assert "both the question and the answer" in error_of(talks, question_column="Q", answer_column="Q")


@pytest.mark.parametrize("flag", ["question_column", "answer_column", "messages_column"])
def test_a_name_that_is_not_there(flag):
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
def test_unclear_columns(columns):
    message = error_of(datasets.Dataset.from_dict({column: ["x"] for column in columns}))
    assert ", ".join(columns) in message
    for flag in ("--question-column", "--answer-column", "--messages-column"):
        assert flag in message


def test_sharegpt_names():
    turns = [("system", "짧게 답한다."), ("human", "안녕"), ("gpt", "네"), ("human", "뭐 해?"), ("gpt", "쉬어요")]
    conversation = [{"from": name, "value": text} for name, text in turns]
    dataset = datasets.Dataset.from_dict({"conversations": [conversation]})
    assert list(load_conversations(dataset)["messages"]) == [TWO_TURNS]


def test_a_csv_cell_holds_messages_as_json(tmp_path):
    with (tmp_path / "chats.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["messages"], [json.dumps(TWO_TURNS)]])
    assert list(load_conversations(tmp_path / "chats.csv")["messages"]) == [TWO_TURNS]


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
        (turns("human", "gpt"), "message 1 has the role 'human'"),
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
        ([], "the messages are missing"),
        (None, "the messages are missing"),
        ({"role": "user"}, "the messages are no list but dict"),
        ("글", "no JSON list"),
    ],
)
def test_messages_that_are_no_conversation(tmp_path, conversation, reason):
    lines = [json.dumps({"messages": messages}) for messages in (GREETING, conversation)]
    message = error_of(written(tmp_path / "chats.jsonl", "\n".join(lines)))
    assert "1 of 2 rows" in message
    assert "chats.jsonl, row 2: " in message and reason in message


def test_text_is_normalised_and_stripped(tmp_path):
    taken_apart = "\u1112\u1161\u11ab\u1100\u1173\u11af"
    path = written(tmp_path / "chats.csv", f'Q,A\n\u3000{taken_apart} ,"\n네  네\t"\n')
    assert pairs_of(load_conversations(path)) == [("한글", "네  네")]


@pytest.mark.parametrize("value", [None, float("nan"), "", " \u3000", 3, True, "\ud83d"])
@pytest.mark.parametrize("column", ["Q", "A"])
def test_questions_and_answers_must_be_text(tmp_path, column, value):
    records = [RECORDS[0], {"Q": "안녕", "A": "네", column: value}, {"Q": "안녕", "A": "네"}]
    path = written(tmp_path / "chats.json", json.dumps(records))
    message = error_of(path)
    assert f"{path}, row 2: the {'question' if column == 'Q' else 'answer'} " in message
    assert ("is missing" in message) == (value is None or value != value)
    assert "1 of 3 rows" in message


def test_missing_values_in_tables(tmp_path):
    path = tmp_path / "chats.parquet"
    datasets.Dataset.from_dict({"Q": ["안녕", None], "A": [None, "네"]}).to_parquet(path)
    message = error_of(path)
    assert "row 1: the answer is missing" in message and "row 2: the question is missing" in message
    path = written(tmp_path / "chats.jsonl", '{"Q": "안녕", "A": "네"}\n{"Q": "안녕"}')
    assert "row 2: the answer is missing" in error_of(path)


def test_row_numbers_are_line_numbers(tmp_path):
    lines = ["", "Q,A", '"여러', '줄",네', "", "하나", "안녕,네,더", ",네", '"안녕', '",  ', '"따옴표" 뒤,네', "끝,네"]
    message = error_of(written(tmp_path / "chats.csv", "\r\n".join(lines)))
    assert message.splitlines()[0].startswith("5 of 7 rows")
    reasons = [line.partition("row ")[2] for line in message.splitlines()[1:6]]
    assert reasons[0] == "6: there are 1 fields, and the header names 2"
    assert reasons[1] == "7: there are 3 fields, and the header names 2"
    assert reasons[2] == "8: the question is empty"
    assert reasons[3] == "9: the answer is empty"
    assert reasons[4].startswith("11: a quotation mark")
    message = error_of(written(tmp_path / "chats.jsonl", '\n{"Q": "a", "A": "b"}\n\n{"Q": "a",\n{}\n3\n'))
    assert "row 4: no valid JSON" in message
    assert "row 5: the question is missing" in message
    assert "row 6: the record is neither" in message


def test_only_the_first_bad_rows_are_listed(tmp_path):
    message = error_of(written(tmp_path / "chats.csv", "Q,A\n안녕,네\n" + "안녕,\n" * 9))
    assert "9 of 10 rows" in message
    assert message.count(", row ") == 5
    assert "4 more" in message
    assert "--skip-bad-rows" in message and "Mend" in message


def test_one_open_quotation_mark_costs_one_row(tmp_path):
    path = written(tmp_path / "chats.csv", 'Q,A\n하나,네\n"둘,네\n"셋, 셋","""네"""\n넷,네\n"다섯,네\n여섯,네\n')
    conversations = load_conversations(path, skip_bad_rows=tmp_path / "bad.jsonl")
    assert pairs_of(conversations) == [("하나", "네"), ("셋, 셋", '"네"'), ("넷", "네"), ("여섯", "네")]
    bad = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["row"], row["content"]) for row in bad] == [(3, '"둘,네'), (6, '"다섯,네')]


def test_bad_rows_are_written_and_left_out(tmp_path, caplog):
    lines = [json.dumps(RECORDS[0]).encode(), "{고장".encode(), b'{"Q": "\xff", "A": "x"}', b'{"Q": "a", "A": ""}']
    path = written(tmp_path / "chats.jsonl", b"\n".join(lines))
    bad = tmp_path / "new" / "bad.jsonl"
    with caplog.at_level(logging.WARNING):
        assert pairs_of(load_conversations(path, skip_bad_rows=bad)) == PAIRS[:1]
    rows = [json.loads(line) for line in bad.read_text(encoding="utf-8").splitlines()]
    assert all(list(row) == ["file", "row", "reason", "content"] for row in rows)
    assert [(row["file"], row["row"]) for row in rows] == [(str(path), 2), (str(path), 3), (str(path), 4)]
    assert "no valid JSON" in rows[0]["reason"] and rows[0]["content"] == "{고장"
    assert rows[1]["reason"] == "the byte 0xFF is not utf-8" and rows[1]["content"] == '{"Q": "\\xFF", "A": "x"}'
    assert rows[2]["reason"] == "the answer is empty"
    assert [entry.name for entry in bad.parent.iterdir()] == ["bad.jsonl"]
    (record,) = [record for record in caplog.records if record.name == "chatformer.data.conversations"]
    assert "3 of 4 rows" in record.getMessage() and str(bad) in record.getMessage()


def test_bad_records_are_written_as_text(tmp_path):
    bad = tmp_path / "bad.jsonl"
    records = datasets.Dataset.from_dict({"Q": ["안녕", None], "A": ["네", "네"]})
    load_conversations(records, skip_bad_rows=bad)
    row = json.loads(bad.read_text(encoding="utf-8"))
    assert row["row"] == 2 and json.loads(row["content"]) == {"Q": None, "A": "네"}


def test_no_bad_row_no_file(tmp_path):
    load_conversations(written(tmp_path / "chats.csv", TEXTS["chats.csv"]), skip_bad_rows=tmp_path / "bad.jsonl")
    assert [entry.name for entry in tmp_path.iterdir()] == ["chats.csv"]


def test_nothing_but_bad_rows(tmp_path):
    for name, content in {"a.csv": "Q,A\n,네\n안녕,\n", "b.csv": "Q,A\n1\n2\n", "c.jsonl": "{\n{\n"}.items():
        message = error_of(written(tmp_path / name, content), skip_bad_rows=tmp_path / "bad.jsonl")
        assert "2 of 2 rows" in message and "No row is left" in message
    assert not (tmp_path / "bad.jsonl").exists()


def test_bad_rows_never_overwrite_the_data(tmp_path):
    path = written(tmp_path / "chats.csv", "Q,A\n안녕,네\n안녕,\n")
    assert "over the data" in error_of(path, skip_bad_rows=tmp_path / "." / "chats.csv")
    assert path.read_text(encoding="utf-8").startswith("Q,A")
    (tmp_path / "folder").mkdir()
    assert "cannot be written" in error_of(path, skip_bad_rows=tmp_path / "folder")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["chats.csv", "folder"]


KOREAN = "Q,A\n오늘 날씨가 참 좋네요,산책하기 좋은 날이에요\n점심 뭐 먹을까?,김치찌개는 어때요?\n"
KOREAN_PAIRS = [("오늘 날씨가 참 좋네요", "산책하기 좋은 날이에요"), ("점심 뭐 먹을까?", "김치찌개는 어때요?")]


@pytest.mark.parametrize("named", [False, True], ids=["found", "named"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp949", "johab", "iso2022_kr"])
def test_encodings(tmp_path, caplog, encoding, named):
    path = written(tmp_path / "chats.csv", KOREAN.encode(encoding))
    with caplog.at_level(logging.INFO):
        assert pairs_of(load_conversations(path, encoding=encoding if named else None)) == KOREAN_PAIRS
    reported = any(f"read as {encoding}" in record.getMessage() for record in caplog.records)
    assert reported == (not named and not encoding.startswith("utf"))


def test_johab_that_could_be_cp949(tmp_path):
    # All of these bytes are valid CP949 too, of syllables that nobody writes.
    text = "Q,A\n가족들이랑 어디 가지?,온 가족이 모두 마음에 드는 곳으로 가보세요.\n"
    assert "가족들이랑" not in text.encode("johab").decode("cp949")
    path = written(tmp_path / "chats.csv", text.encode("johab"))
    assert pairs_of(load_conversations(path))[0][0] == "가족들이랑 어디 가지?"


@pytest.mark.parametrize("mark", [codecs.BOM_UTF16_BE, codecs.BOM_UTF16_LE])
def test_utf_16_by_its_mark(tmp_path, mark):
    encoding = "utf-16-be" if mark == codecs.BOM_UTF16_BE else "utf-16-le"
    assert pairs_of(load_conversations(written(tmp_path / "a.csv", mark + KOREAN.encode(encoding)))) == KOREAN_PAIRS
    assert "row 2: the byte" in error_of(written(tmp_path / "b.csv", mark + "Q,A\na,".encode(encoding) + b"\xd8"))
    plain = written(tmp_path / "c.csv", KOREAN.encode(encoding))
    assert "row 1: a NUL byte" in error_of(plain)
    assert pairs_of(load_conversations(plain, encoding=encoding)) == KOREAN_PAIRS
    assert "row 1: a NUL character" in error_of(plain, encoding="utf-8")


@pytest.mark.parametrize("encoding", ["utf-8", "cp949", "johab"])
@pytest.mark.parametrize("name", ["chats.csv", "chats.json"])
def test_one_broken_byte_is_one_broken_row(tmp_path, encoding, name):
    text = KOREAN + "망가진 줄,!고장\n"
    if name.endswith(".json"):
        records = [dict(zip("QA", line.split(","), strict=True)) for line in text.splitlines()[1:]]
        text = json.dumps(records, ensure_ascii=False)
    path = written(tmp_path / name, text.encode(encoding).replace(b"!", b"\xff"))
    row = 4 if name.endswith(".csv") else 3
    assert f"row {row}: the byte 0xFF is not {encoding}" in error_of(path)
    assert f"row {row}: the byte 0xFF is not {encoding}" in error_of(path, encoding=encoding)
    assert pairs_of(load_conversations(path, skip_bad_rows=tmp_path / "bad.jsonl")) == KOREAN_PAIRS


def test_text_in_another_encoding(tmp_path):
    path = written(tmp_path / "chats.csv", "Q,A\nGrüße,Schöne Grüße\nÜber Größe?,Müßig\n".encode("latin-1"))
    message = error_of(path)
    assert "chats.csv, row 2: the text is not UTF-8, nor any Korean encoding" in message and "--encoding" in message
    assert pairs_of(load_conversations(path, encoding="latin-1"))[0] == ("Grüße", "Schöne Grüße")
    assert "2 of 2 rows" in error_of(path, encoding="ascii")


@pytest.mark.parametrize("encoding", ["cp994", "rot13", "hex", ""])
def test_an_unknown_encoding(tmp_path, encoding):
    message = error_of(written(tmp_path / "chats.csv", KOREAN), encoding=encoding)
    assert f"no text encoding {encoding!r}" in message and "cp949" in message


def test_fields_of_any_length(tmp_path):
    limit = csv.field_size_limit()
    long_answer = "가" * 300_000
    path = written(tmp_path / "chats.csv", f"Q,A\n안녕,{long_answer}\n")
    assert pairs_of(load_conversations(path)) == [("안녕", long_answer)]
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("content", "reason"),
    [("Q,Q,A\n", "same name"), ('"Q,A\n안녕,네\n', "quotation mark"), (b"Q,\xffA\nx,y\n", "0xFF")],
)
def test_a_broken_header(tmp_path, content, reason):
    message = error_of(written(tmp_path / "chats.csv", content), encoding="utf-8", skip_bad_rows=tmp_path / "bad")
    assert "row 1, the header" in message and reason in message


def test_columns_without_a_name(tmp_path):
    assert pairs_of(load_conversations(written(tmp_path / "a.csv", "Q,A,,\n안녕,반가워요,,\n"))) == PAIRS[:1]


def test_missing_files(tmp_path, monkeypatch):
    written(tmp_path / "ChatbotData.csv", TEXTS["chats.csv"])
    message = error_of(tmp_path / "ChatBotData.csv")
    assert str(tmp_path / "ChatBotData.csv") in message
    assert f"Did you mean {tmp_path / 'ChatbotData.csv'}?" in message
    assert "Did you mean" not in error_of(tmp_path / "zzz")
    assert f"nor a directory {tmp_path / 'none'}" in error_of(tmp_path / "none" / "x.csv")
    monkeypatch.chdir(tmp_path)
    assert "There is no file" in error_of("chats.csv")
    # These look like ids of Hub datasets, but an ending or a folder tells that files are meant.
    (tmp_path / "data").mkdir()
    assert "nor a directory" in error_of("user/chats.csv")
    assert "Check the path" in error_of("data/chats")
    assert pairs_of(load_conversations("./ChatbotData.csv")) == PAIRS
    monkeypatch.setenv("HOME", str(tmp_path))
    assert pairs_of(load_conversations("~/ChatbotData.csv")) == PAIRS


def test_files_that_are_none(tmp_path):
    written(tmp_path / "chats.csv", TEXTS["chats.csv"])
    message = error_of(tmp_path)
    assert "is a directory" in message and "chats.csv" in message
    assert "empty.csv is empty" in error_of(written(tmp_path / "empty.csv", ""))
    assert "blank.json is empty" in error_of(written(tmp_path / "blank.json", "\n \n"))
    assert "empty.csv.gz is empty" in error_of(written(tmp_path / "empty.csv.gz", gzip.compress(b"")))
    assert "no conversations" in error_of(written(tmp_path / "header.csv", "Q,A\n"))
    assert "no conversations" in error_of(datasets.Dataset.from_dict({"Q": [], "A": []}))
    assert "files that can be read" in error_of(written(tmp_path / "chats.xlsx", b"PK\x03\x04"))
    assert "row 2: a NUL byte" in error_of(written(tmp_path / "binary.csv", b"Q,A\n\x00\x01"))
    packed = gzip.compress(TEXTS["chats.csv"].encode())
    assert "broken gzip" in error_of(written(tmp_path / "cut.csv.gz", packed[:-9]))
    assert "broken gzip" in error_of(written(tmp_path / "turned.csv.gz", packed[:20] + packed[20:][::-1]))


def test_the_checksum_of_a_file(tmp_path):
    path = written(tmp_path / "chats.csv", TEXTS["chats.csv"])
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert pairs_of(load_conversations(path, sha256=found.upper())) == PAIRS
    message = error_of(path, sha256="ab" * 32)
    assert found in message and "ab" * 32 in message and "get it again" in message


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[tuple[str, Path]]:
    """Serve a folder on 127.0.0.1, with a cache of its own for what is downloaded."""
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=folder))
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.02), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_url(server, tmp_path):
    address, folder = server
    written(folder / "chats.csv", TEXTS["chats.csv"])
    (folder / "chats.jsonl.gz").write_bytes(gzip.compress(TEXTS["chats.jsonl"].encode()))
    datasets.Dataset.from_list(RECORDS).to_parquet(folder / "chats.parquet")
    for name in ("chats.csv", "chats.csv?raw=1", "chats.jsonl.gz", "chats.parquet"):
        assert pairs_of(load_conversations(f"{address}/{name}")) == PAIRS
    written(folder / "bad.csv", "Q,A\n안녕,\n")
    assert f"{address}/bad.csv, row 2" in error_of(f"{address}/bad.csv")
    assert any((tmp_path / "cache").iterdir())


def test_the_checksum_of_a_url(server):
    address, folder = server
    content = TEXTS["chats.csv"].encode()
    written(folder / "chats.csv", content + "새 줄,네,2\n".encode())
    expected = hashlib.sha256(content).hexdigest()
    message = error_of(f"{address}/chats.csv", sha256=expected)
    assert expected in message and hashlib.sha256((folder / "chats.csv").read_bytes()).hexdigest() in message
    # A wrong download is not kept for good, and a right one is not asked for again.
    written(folder / "chats.csv", content)
    assert pairs_of(load_conversations(f"{address}/chats.csv", sha256=expected)) == PAIRS
    (folder / "chats.csv").unlink()
    assert pairs_of(load_conversations(f"{address}/chats.csv", sha256=expected)) == PAIRS


def test_a_url_that_cannot_be_had(server):
    address, _ = server
    message = error_of(f"{address}/none.csv")
    assert f"{address}/none.csv" in message and "404" in message and "pass the file" in message
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/chats.csv"
        message = error_of(url)
    assert url in message and "pass the file" in message and "Connect" in message


def test_a_hub_dataset(monkeypatch):
    asked = []

    def load_dataset(dataset_id, *, split, revision, streaming):
        asked.append((dataset_id, split, revision))
        stored = datasets.Dataset.from_list(RECORDS)
        return stored.to_iterable_dataset() if streaming else stored

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert pairs_of(load_conversations("user/chats")) == PAIRS
    assert pairs_of(load_conversations(["user/chats.v2"], split="test", revision="abc")) == PAIRS
    assert asked == [("user/chats", "train", None), ("user/chats.v2", "test", "abc")]
    assert pairs_of(load_conversations("user/chats", streaming=True)) == PAIRS
    assert "revision" in error_of("user/chats", sha256="0" * 64)


def test_a_stream_is_read_no_further_than_wanted():
    def rows():
        for number in range(10**9):
            assert number <= 30
            yield {"Q": f"질문 {number}", "A": f"답 {number}" if number % 10 else ""}

    stream = datasets.IterableDataset.from_generator(rows)
    assert "3 of 30 rows cannot be used" in error_of(stream, max_rows=30)
    short = load_conversations(stream.filter(lambda row: row["A"] != ""), max_rows=20)
    assert [messages[0]["content"] for messages in short["messages"]][-1] == "질문 22"
    assert "has no conversations" in error_of(stream.take(0))


def test_a_hub_dataset_that_cannot_be_had(monkeypatch):
    def load_dataset(dataset_id, *, split, revision, streaming):
        raise ConnectionError("Couldn't reach the Hub.")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    message = error_of("user/chats", split="dev", revision="abc")
    for part in ("user/chats", "dev", "abc", "ConnectionError: Couldn't reach the Hub. Check", "network"):
        assert part in message


def test_a_revision_of_a_file_is_reported(tmp_path, caplog):
    load_conversations(written(tmp_path / "chats.csv", TEXTS["chats.csv"]), revision="abc")
    assert "revision abc is not used" in caplog.text


def test_a_split_has_every_conversation_once_and_no_opening_twice():
    questions = [f"질문 {number % 70}" for number in range(200)]
    training, validation = split_conversations(dataset_of(*questions), validation_fraction=0.1, seed=1)
    # Groups of two and three do not always add up to 20.
    assert 18 <= len(validation) <= 20
    sides = [[question for question, _ in pairs_of(side)] for side in (training, validation)]
    assert sorted(sides[0] + sides[1]) == sorted(questions)
    assert not set(sides[0]) & set(sides[1])


def test_openings_are_compared_without_case_and_spacing():
    conversations = dataset_of(*["Hello  there", " hello THERE", "HELLO\tthere\n", "Straße", "STRASSE"] * 3)
    for seed in range(10):
        training, validation = split_conversations(conversations, validation_fraction=0.4, seed=seed)
        assert {len(training), len(validation)} == {6, 9}
        starts = [{question[:2].casefold() for question, _ in pairs_of(side)} for side in (training, validation)]
        assert not starts[0] & starts[1]


def test_a_system_message_belongs_to_the_opening():
    asked = [*GREETING, {"role": "user", "content": "또?"}, {"role": "assistant", "content": "네"}]
    told = [{"role": "system", "content": "짧게"}, *GREETING]
    conversations = load_conversations(datasets.Dataset.from_dict({"messages": [GREETING, asked, told, told]}))
    training, validation = split_conversations(conversations, validation_fraction=0.5, seed=0)
    sides = sorted([list(training["messages"]), list(validation["messages"])], key=lambda side: len(side[0]))
    assert {len(side) for side in sides} == {2}
    for side in sides:
        assert len({messages[0]["role"] for messages in side}) == 1
    same_system = [[told[0], {"role": "user", "content": question}, told[2]] for question in ("하나", "둘")]
    conversations = load_conversations(datasets.Dataset.from_dict({"messages": same_system}))
    assert [len(side) for side in split_conversations(conversations, validation_fraction=0.5, seed=0)] == [1, 1]


def test_a_split_depends_on_the_seed_and_not_on_the_order():
    questions = [f"질문 {number}" for number in range(50)]

    def kept(order, seed):
        _, validation = split_conversations(dataset_of(*order), validation_fraction=0.2, seed=seed)
        return {question for question, _ in pairs_of(validation)}

    assert kept(questions, 1) == kept(questions, 1) == kept(questions[::-1], 1)
    assert kept(questions, 1) != kept(questions, 2)
    assert len(kept(questions, 2)) == 10


def test_the_order_of_rows_is_kept():
    conversations = dataset_of(*[f"{number:02}" for number in range(50)])
    for side in split_conversations(conversations, validation_fraction=0.3, seed=3):
        assert pairs_of(side) == sorted(pairs_of(side))


@pytest.mark.parametrize("fraction", [0.001, 0.5, 0.999])
def test_both_sides_have_conversations(fraction):
    for questions in (["a", "b"], ["a"] * 5 + ["b"] * 4, ["a", "b", "c", "c"]):
        for side in split_conversations(dataset_of(*questions), validation_fraction=fraction, seed=0):
            assert len(side) > 0


def test_fractions():
    conversations = dataset_of("a", "a")
    training, validation = split_conversations(conversations, validation_fraction=0, seed=0)
    assert (len(training), len(validation)) == (2, 0)
    assert validation.column_names == ["messages"]
    with pytest.raises(DataError, match="1 different openings"):
        split_conversations(conversations, validation_fraction=0.5, seed=0)
    for fraction in (-0.1, 1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="at least 0 and less than 1"):
            split_conversations(conversations, validation_fraction=fraction, seed=0)


def test_exchanges():
    assert list(exchanges(TWO_TURNS)) == [(TWO_TURNS[:2], "네"), (TWO_TURNS[:4], "쉬어요")]
    assert list(exchanges(GREETING)) == [(GREETING[:1], "반가워요")]


@pytest.mark.skipif(not SONGYS.exists(), reason="the file is not on this machine")
def test_the_songys_file():
    conversations = load_conversations(SONGYS)
    assert len(conversations) == 11_245
    training, validation = split_conversations(conversations, validation_fraction=0.05, seed=0)
    assert len(training) + len(validation) == 11_245
    assert abs(len(validation) - 562) <= 1
    questions = [{question.casefold() for question, _ in pairs_of(side)} for side in (training, validation)]
    assert not questions[0] & questions[1]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_many_conversations_are_kept_in_a_file_and_are_the_same(tmp_path, monkeypatch, suffix):
    records = [{"Q": f"질문 {number}", "A": f"답 {number}"} for number in range(50)] + [{"Q": "끝", "A": None}]
    path, bad_rows = tmp_path / f"chats.{suffix}", tmp_path / "bad.jsonl"
    dataset = datasets.Dataset.from_list(records)
    dataset.to_parquet(path) if suffix == "parquet" else dataset.to_json(path, force_ascii=False)
    in_memory = load_conversations(path, skip_bad_rows=bad_rows)
    monkeypatch.setattr(conversations, "CONVERSATIONS_IN_MEMORY", 20)
    in_file = load_conversations(path, skip_bad_rows=bad_rows)
    assert not in_memory.cache_files and in_file.cache_files
    assert in_file.to_list() == in_memory.to_list() and len(in_file) == 50
    assert "row 51" in error_of(path) or "51" in error_of(path)
    for fraction in (0.001, 0.2, 0.9):
        monkeypatch.setattr(conversations, "CONVERSATIONS_IN_MEMORY", 1000)
        few = split_conversations(in_memory, validation_fraction=fraction, seed=1)
        monkeypatch.setattr(conversations, "CONVERSATIONS_IN_MEMORY", 20)
        many = split_conversations(in_file, validation_fraction=fraction, seed=1)
        assert [part.to_list() for part in many] == [part.to_list() for part in few]
        assert not few[1].cache_files and all(part.cache_files for part in many)


def test_of_a_large_parquet_file_little_is_in_memory_at_a_time(tmp_path, environment):
    chance, path = random.Random(0), tmp_path / "chats.parquet"
    records = [{"Q": chance.randbytes(2000).hex(), "A": str(number)} for number in range(5000)]
    datasets.Dataset.from_list(records).to_parquet(path, batch_size=100)
    code = (
        "import pathlib, sys, tracemalloc, datasets.packaged_modules; from chatformer.data import conversations; "
        "conversations.CONVERSATIONS_IN_MEMORY = 20; path = pathlib.Path(sys.argv[1]); tracemalloc.start(); "
        "print(len(conversations._parquet_dataset(path.name, path)), tracemalloc.get_traced_memory()[1])"
    )
    found = subprocess.run([sys.executable, "-c", code, path], env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    num_rows, most = map(int, found.stdout.split())
    assert num_rows == 5000
    assert most < path.stat().st_size / 2


def test_a_split_looks_further_where_the_first_lots_do_not_suffice(monkeypatch):
    # One opening is most of the data, and the others' lots are spread over all.
    questions = ["안녕"] * 160 + [f"질문 {number}" for number in range(40)]
    shares = []

    def draw(conversations, wanted, seed, share):
        shares.append(share)
        return plain_draw(conversations, wanted, seed, share)

    plain_draw = conversations._draw
    monkeypatch.setattr(conversations, "_draw", draw)
    asked = dataset_of(*questions)
    few = [split_conversations(asked, validation_fraction=0.1, seed=seed) for seed in range(3)]
    assert set(shares) == {1}
    shares.clear()
    monkeypatch.setattr(conversations, "CONVERSATIONS_IN_MEMORY", 20)
    many = [split_conversations(asked, validation_fraction=0.1, seed=seed) for seed in range(3)]
    assert {0.2, 0.4} <= set(shares)
    assert [[part.to_list() for part in split] for split in many] == [
        [part.to_list() for part in split] for split in few
    ]
