import random
import subprocess
import sys

import datasets
import pytest

from chatformer.data import arrow
from chatformer.data.conversations import load_conversations
from chatformer.data.splitting import split_conversations


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_many_conversations_are_kept_in_a_file_and_are_the_same(error_of, tmp_path, monkeypatch, suffix):
    records = [{"Q": f"질문 {number}", "A": f"답 {number}"} for number in range(50)] + [{"Q": "끝", "A": None}]
    path = tmp_path / f"chats.{suffix}"
    dataset = datasets.Dataset.from_list(records)
    dataset.to_parquet(path) if suffix == "parquet" else dataset.to_json(path, force_ascii=False)
    in_memory = load_conversations(path, skip_bad_rows=True).conversations
    monkeypatch.setattr(arrow, "CONVERSATIONS_IN_MEMORY", 20)
    in_file = load_conversations(path, skip_bad_rows=True).conversations
    assert not in_memory.cache_files and in_file.cache_files
    assert in_file.to_list() == in_memory.to_list() and len(in_file) == 50
    assert "row 51" in error_of(path) or "51" in error_of(path)
    for fraction in (0.001, 0.2, 0.9):
        monkeypatch.setattr(arrow, "CONVERSATIONS_IN_MEMORY", 1000)
        few = split_conversations(in_memory, validation_fraction=fraction, seed=1)
        monkeypatch.setattr(arrow, "CONVERSATIONS_IN_MEMORY", 20)
        many = split_conversations(in_file, validation_fraction=fraction, seed=1)
        assert [part.to_list() for part in many] == [part.to_list() for part in few]
        assert not few[1].cache_files and all(part.cache_files for part in many)


def test_of_a_large_parquet_file_little_is_in_memory_at_a_time(tmp_path, environment):
    chance, path = random.Random(0), tmp_path / "chats.parquet"
    records = [{"Q": chance.randbytes(2000).hex(), "A": str(number)} for number in range(5000)]
    datasets.Dataset.from_list(records).to_parquet(path, batch_size=100)
    code = (
        "import pathlib, sys, tracemalloc, datasets.packaged_modules; from chatformer.data import arrow, formats; "
        "arrow.CONVERSATIONS_IN_MEMORY = 20; path = pathlib.Path(sys.argv[1]); tracemalloc.start(); "
        "print(len(formats.parquet_dataset(path.name, path)), tracemalloc.get_traced_memory()[1])"
    )
    found = subprocess.run([sys.executable, "-c", code, path], env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    num_rows, most = map(int, found.stdout.split())
    assert num_rows == 5000
    assert most < path.stat().st_size / 2
