import csv
import gzip
import json

import datasets
import pytest

from chatformer.data.conversations import load_conversations

GREETING = [{"role": "user", "content": "안녕"}, {"role": "assistant", "content": "반가워요"}]
TWO_TURNS = [
    {"role": "system", "content": "짧게 답한다."},
    {"role": "user", "content": "안녕"},
    {"role": "assistant", "content": "네"},
    {"role": "user", "content": "뭐 해?"},
    {"role": "assistant", "content": "쉬어요"},
]

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
def test_text_formats(pairs, tmp_path, name, packed):
    content = TEXTS[name].encode("utf-8")
    path = tmp_path / (name + ".gz" * packed)
    path.write_bytes(gzip.compress(content) if packed else content)
    conversations = load_conversations(path).conversations
    assert conversations.column_names == ["messages"]
    assert pairs(path) == PAIRS
    assert conversations[0]["messages"] == GREETING
    assert pairs([str(path)]) == PAIRS


def test_parquet(pairs, error_of, written, tmp_path):
    datasets.Dataset.from_list(RECORDS).to_parquet(tmp_path / "chats.parquet")
    assert pairs(tmp_path / "chats.parquet") == PAIRS
    messages = datasets.Dataset.from_dict({"messages": [TWO_TURNS, GREETING]})
    messages.to_parquet(tmp_path / "messages.parquet")
    assert list(load_conversations(tmp_path / "messages.parquet").conversations["messages"]) == [TWO_TURNS, GREETING]
    assert "fake.parquet cannot be read as Parquet" in error_of(written(tmp_path / "fake.parquet", "Q,A\n"))


def test_parallel_files(pairs, written, tmp_path):
    # U+2028 and the vertical tab end a line for str.splitlines, but for no editor.
    questions = written(tmp_path / "train.question", "안\u2028녕\x0b!\r\n뭐 해?\r\n")
    answers = tmp_path / "train.answer.gz"
    answers.write_bytes(gzip.compress("반가워요\n쉬어요".encode()))
    expected = [("안\u2028녕\x0b!", "반가워요"), PAIRS[1]]
    assert pairs([questions, answers]) == expected
    assert pairs((str(questions), str(answers))) == expected


def test_parallel_files_of_different_lengths_or_kinds(error_of, written, tmp_path):
    two = written(tmp_path / "two.txt", "a\nb\n")
    three = written(tmp_path / "three.txt", "a\nb\n\n")
    message = error_of([two, three])
    assert f"{two} has 2 lines" in message and f"{three} has 3" in message
    table = written(tmp_path / "chats.csv", TEXTS["chats.csv"])
    assert "Found 2 files" in error_of([table, table])
    assert "Found 3 files" in error_of([two, two, two], data_format="pairs")
    assert "Found 0 files" in error_of([])
    assert "pass two files" in error_of(two, data_format="pairs")
    assert "two files of plain text" in error_of(written(tmp_path / "train.question", "a\n"))
    assert "sha256 is of one file" in error_of([two, two], sha256="0" * 64)


def test_an_empty_line_names_the_file_it_stands_in(error_of, written, tmp_path):
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
def test_shapes_of_json(pairs, written, tmp_path, document):
    assert pairs(written(tmp_path / "chats.json", json.dumps(document))) == PAIRS


@pytest.mark.parametrize("document", ['"text"', "{}", "[]", '{"a": [{}], "b": [{}]}', '{"Q": ["a"], "A": ["b"]}', "3"])
def test_json_without_one_list_of_records(error_of, written, tmp_path, document):
    assert "chats.json" in error_of(written(tmp_path / "chats.json", document))


def test_broken_json_names_the_line(error_of, written, tmp_path):
    assert "row 3, column" in error_of(written(tmp_path / "a.json", '[\n{"Q": "a", "A": "b"},\n{"Q": "c" "A": "d"}\n]'))
    assert "name it .jsonl" in error_of(written(tmp_path / "b.json", TEXTS["chats.jsonl"]))
    assert "make one list" in error_of(written(tmp_path / "joined.json", json.dumps(RECORDS) * 2))
    document = json.dumps(RECORDS, indent=1)
    assert "Name it .json." in error_of(written(tmp_path / "chats.jsonl", document))
    assert "deep.json" in error_of(written(tmp_path / "deep.json", "[" * 200_000))


def test_missing_values_in_tables(error_of, written, tmp_path):
    path = tmp_path / "chats.parquet"
    datasets.Dataset.from_dict({"Q": ["안녕", None], "A": [None, "네"]}).to_parquet(path)
    message = error_of(path)
    assert "row 1: the answer is missing" in message and "row 2: the question is missing" in message
    path = written(tmp_path / "chats.jsonl", '{"Q": "안녕", "A": "네"}\n{"Q": "안녕"}')
    assert "row 2: the answer is missing" in error_of(path)


def test_row_numbers_are_line_numbers(error_of, written, tmp_path):
    lines = ["", "Q,A", '"여러', '줄",네', "", "하나", "안녕,네,더", ",네", '"안녕', '",  ', '"따옴표" 뒤,네', "끝,네"]
    message = error_of(written(tmp_path / "chats.csv", "\r\n".join(lines)))
    assert message.splitlines()[0].startswith("5 of 7 rows")
    reasons = [line.partition("row ")[2] for line in message.splitlines()[1:6]]
    assert reasons[0] == "6: there is 1 field, and the header names 2"
    assert reasons[1] == "7: there are 3 fields, and the header names 2"
    assert reasons[2] == "8: the question is empty"
    assert reasons[3] == "9: the answer is empty"
    assert reasons[4].startswith("11: a quotation mark")
    message = error_of(written(tmp_path / "chats.jsonl", '\n{"Q": "a", "A": "b"}\n\n{"Q": "a",\n{}\n3\n'))
    assert "row 4: no valid JSON" in message
    assert "row 5: the question is missing" in message
    assert "row 6: the record is neither" in message


def test_one_open_quotation_mark_costs_one_row(pairs, written, tmp_path):
    path = written(tmp_path / "chats.csv", 'Q,A\n하나,네\n"둘,네\n"셋, 셋","""네"""\n넷,네\n"다섯,네\n여섯,네\n')
    assert pairs(path, skip_bad_rows=True) == [("하나", "네"), ("셋, 셋", '"네"'), ("넷", "네"), ("여섯", "네")]
    bad_rows = load_conversations(path, skip_bad_rows=True).bad_rows
    assert [(row.row, row.content) for row in bad_rows] == [(3, '"둘,네'), (6, '"다섯,네')]


def test_fields_of_any_length(pairs, written, tmp_path):
    limit = csv.field_size_limit()
    long_answer = "가" * 300_000
    path = written(tmp_path / "chats.csv", f"Q,A\n안녕,{long_answer}\n")
    assert pairs(path) == [("안녕", long_answer)]
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("content", "reason"),
    [("Q,Q,A\n", "same name"), ('"Q,A\n안녕,네\n', "quotation mark"), (b"Q,\xffA\nx,y\n", "0xFF")],
)
def test_a_broken_header(error_of, written, tmp_path, content, reason):
    message = error_of(written(tmp_path / "chats.csv", content), encoding="utf-8", skip_bad_rows=True)
    assert "row 1, the header" in message and reason in message


def test_columns_without_a_name(pairs, written, tmp_path):
    assert pairs(written(tmp_path / "a.csv", "Q,A,,\n안녕,반가워요,,\n")) == PAIRS[:1]
