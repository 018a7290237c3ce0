import codecs
import json

import pytest

from chatformer.data.conversations import load_conversations

PAIRS = [("안녕", "반가워요"), ("뭐 해?", "책 읽고, 쉬어요; 너는?")]


def test_quotation_marks_in_tsv_are_characters_unless_they_enclose_a_field(pairs, written, tmp_path):
    lines = [
        '"Where are you?\tHere.',
        'Come in."\t"Thanks," he said.',
        '"A," she said, "or B?"\tB.',
        '"She said ""no""."\t"Why?"',
        '""\t"',
    ]
    path = written(tmp_path / "chats.tsv", "\n".join(["question\tanswer", *lines]))
    loaded = load_conversations(path, skip_bad_rows=True)
    assert pairs(path, skip_bad_rows=True) == [
        ('"Where are you?', "Here."),
        ('Come in."', '"Thanks," he said.'),
        ('"A," she said, "or B?"', "B."),
        ('She said "no".', "Why?"),
    ]
    assert [(row.row, row.reason) for row in loaded.bad_rows] == [(6, "the question is empty")]


def test_tabs_and_line_ends_in_the_quotes_of_a_spreadsheet(pairs, written, tmp_path):
    # Quotes hold them only where the line does not fit the header by itself.
    path = written(
        tmp_path / "chats.tsv", 'Q\tA\r\n"두\r\n줄"\t네\r\n"탭\t하나"\t네\r\n"열린\r\n따옴표\t네\r\n끝\t네\r\n'
    )
    loaded = load_conversations(path, skip_bad_rows=True)
    assert pairs(path, skip_bad_rows=True) == [
        ("두\n줄", "네"),
        ("탭\t하나", "네"),
        ("따옴표", "네"),
        ("끝", "네"),
    ]
    assert [(row.row, row.content) for row in loaded.bad_rows] == [(5, '"열린')]


@pytest.mark.parametrize("name", ["chats.csv", "chats.tsv"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_the_separator_is_the_one_that_the_records_have(pairs, written, tmp_path, name, separator):
    records = [["id", "question", "answer"], *([str(number), *pair] for number, pair in enumerate(PAIRS))]
    text = "\n".join(separator.join(f'"{field}"' for field in record) for record in records)
    assert pairs(written(tmp_path / name, text)) == PAIRS


def test_other_separators_in_the_text(pairs, written, tmp_path):
    path = written(tmp_path / "a.csv", "question,answer\n하나; 둘; 셋,넷; 다섯; 여섯\n가\t나,다\n")
    assert pairs(path) == [("하나; 둘; 셋", "넷; 다섯; 여섯"), ("가\t나", "다")]
    path = written(tmp_path / "b.csv", "question;answer, in short\n하나, 둘;셋\n넷;다섯\n여섯;일곱\n")
    assert pairs(path, answer_column="answer, in short")[0] == ("하나, 둘", "셋")


@pytest.mark.parametrize("separator", [";", "|", "\t"])
def test_a_line_that_names_the_separator(pairs, error_of, written, tmp_path, separator):
    lines = [f"sep={separator}", f"question{separator}answer", f"안녕{separator}반가워요"]
    path = written(tmp_path / "chats.csv", "\ufeff" + "\r\n".join(lines))
    assert pairs(path) == PAIRS[:1]
    message = error_of(written(tmp_path / "bad.csv", "\r\n".join([*lines, "하나", "둘"])))
    assert "bad.csv, row 4: there is 1 field" in message


@pytest.mark.parametrize("name", ["chats.csv", "chats.tsv", "chats.txt"])
@pytest.mark.parametrize("mark", ["", "\ufeff", "\ufeff\ufeff"])
def test_joined_files(pairs, written, tmp_path, caplog, name, mark):
    separator = "," if name.endswith(".csv") else "\t"
    text = f"{mark}question{separator}answer\r\n안녕{separator}반가워요\r\n"
    assert pairs(written(tmp_path / name, text * 3)) == PAIRS[:1] * 3
    assert f"{name}: the header is repeated in 2 rows (3, 5), which are left out." in caplog.text


def test_joined_files_of_other_forms(pairs, error_of, written, tmp_path):
    record = json.dumps({"Q": "안녕", "A": "반가워요"}) + "\n"
    assert pairs(written(tmp_path / "chats.jsonl", ("\ufeff" + record) * 2)) == PAIRS[:1] * 2
    text = "\ufeffQ,A\n안녕,반가워요\n".encode("utf-16-le")
    assert pairs(written(tmp_path / "chats.csv", text * 2)) == PAIRS[:1] * 2
    assert text[:2] == codecs.BOM_UTF16_LE
    message = error_of(written(tmp_path / "swapped.csv", "Q,A\n안녕,반가워요\nA,Q\n네,뭐 해?\n"), skip_bad_rows=True)
    assert "swapped.csv, row 3: a second header, with the columns in another order" in message


def test_plain_text_with_a_tab_in_each_line(pairs, error_of, written, tmp_path):
    text = "안녕\t반가워요\n\n뭐 해?\t책 읽고, 쉬어요; 너는?\n"
    assert pairs(written(tmp_path / "chats.txt", text)) == PAIRS
    assert pairs(written(tmp_path / "named.txt", "answer\tquestion\n반가워요\t안녕\n")) == PAIRS[:1]
    assert "named.txt, row 3: there is 1 field" in error_of(written(tmp_path / "named.txt", "Q\tA\nx\ty\nz\n"))
    assert "plain.txt, row 2: no tab" in error_of(
        written(tmp_path / "plain.txt", "\n안녕\n반가워요\n"), data_format="pairs"
    )


def test_more_columns_without_names(pairs, error_of, written, tmp_path):
    path = written(tmp_path / "chats.txt", "Hi.\t안녕.\tCC-BY\nRun!\t뛰어!\tCC-BY\n")
    assert "Its columns are 1, 2, 3." in error_of(path)
    assert pairs(path, question_column="2", answer_column="1") == [("안녕.", "Hi."), ("뛰어!", "Run!")]


@pytest.mark.parametrize("name", ["chats.csv", "chats.tsv"])
def test_json_is_no_table(error_of, written, tmp_path, name):
    records = [{"Q": "안녕", "A": "반가워요"}, {"Q": "뭐 해?", "A": "쉬어요"}]
    assert "Name it .json." in error_of(written(tmp_path / name, json.dumps(records, indent=1)))
    lines = "\n".join(map(json.dumps, records))
    assert "Name it .jsonl." in error_of(written(tmp_path / name, lines))


def test_a_table_of_one_column_gets_no_guess_at_its_name(error_of, written, tmp_path):
    message = error_of(written(tmp_path / "chats.csv", "question|answer\n안녕|네\n"), question_column="question")
    assert "Did you mean" not in message and "separator" in message
