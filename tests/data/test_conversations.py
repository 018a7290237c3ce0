import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from chatformer.data.conversations import load_conversations
from chatformer.data.splitting import split_conversations

SONGYS = Path(__file__).parents[2].parent / "shared" / "data" / "songys_chatbot" / "ChatbotData.csv"

TWO_TURNS = [
    {"role": "system", "content": "짧게 답한다."},
    {"role": "user", "content": "안녕"},
    {"role": "assistant", "content": "네"},
    {"role": "user", "content": "뭐 해?"},
    {"role": "assistant", "content": "쉬어요"},
]
RECORDS = [{"Q": "안녕", "A": "반가워요", "label": 0}, {"Q": "뭐 해?", "A": "쉬어요", "label": 1}]
PAIRS = [("안녕", "반가워요"), ("뭐 해?", "쉬어요")]
TABLE = "Q,A,label\n안녕,반가워요,0\n뭐 해?,쉬어요,1\n"


def test_importing_is_quick_and_needs_neither_torch_nor_datasets():
    program = "import sys, chatformer.data.conversations; sys.exit(bool({'torch', 'datasets'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_dataset_objects(pairs, error_of, tmp_path):
    dataset = datasets.Dataset.from_list(RECORDS)
    dataset.save_to_disk(tmp_path / "saved")
    assert pairs(datasets.load_from_disk(tmp_path / "saved")) == PAIRS
    messages = datasets.Dataset.from_dict({"messages": [TWO_TURNS]}).with_format("numpy")
    assert list(load_conversations(messages).conversations["messages"]) == [TWO_TURNS]
    splits = datasets.DatasetDict({"train": dataset, "test": dataset.select([1])})
    assert pairs(splits) == PAIRS
    assert pairs(splits, split="test") == PAIRS[1:]
    message = error_of(splits, split="dev")
    assert "'dev'" in message and "train, test" in message
    with pytest.raises(TypeError, match="int"):
        load_conversations(3)


def test_a_dataset_folder_is_read_with_datasets(pairs, written, tmp_path):
    (tmp_path / "folder").mkdir()
    written(tmp_path / "folder" / "train.csv", TABLE)
    loaded = datasets.load_dataset(str(tmp_path / "folder"), cache_dir=str(tmp_path / "cache"))
    assert pairs(loaded) == PAIRS


def test_a_stream_is_read_no_further_than_wanted(error_of):
    def rows():
        for number in range(10**9):
            assert number <= 30
            yield {"Q": f"질문 {number}", "A": f"답 {number}" if number % 10 else ""}

    stream = datasets.IterableDataset.from_generator(rows)
    assert "3 of 30 rows cannot be used" in error_of(stream, max_rows=30)
    short = load_conversations(stream.filter(lambda row: row["A"] != ""), max_rows=20).conversations
    assert [messages[0]["content"] for messages in short["messages"]][-1] == "질문 22"
    assert "has no conversations" in error_of(stream.take(0))


@pytest.mark.skipif(not SONGYS.exists(), reason="the file is not on this machine")
def test_the_songys_file():
    conversations = load_conversations(SONGYS).conversations
    assert len(conversations) == 11_245
    training, validation = split_conversations(conversations, validation_fraction=0.05, seed=0)
    assert len(training) + len(validation) == 11_245
    assert abs(len(validation) - 562) <= 1
    sides = (training["messages"], validation["messages"])
    questions = [{messages[0]["content"].casefold() for messages in side} for side in sides]
    assert not questions[0] & questions[1]
