import contextlib

import numpy as np
import pytest

from chatformer.configuration.training import TrainingSettings
from chatformer.data.messages import DataError
from chatformer.data.named import named_conversations
from chatformer.data.preparation import conversations_of, message_texts, prepare_data
from chatformer.data.topics import MOST_TWINS
from chatformer.reading import reads_history


@pytest.fixture
def settings(conversations_file):
    """Return a function that makes the settings of a training on a file with one bad row."""

    def make(tmp_path, **changes):
        broken = tmp_path / "broken.jsonl"
        broken.write_text(conversations_file.read_text("utf-8") + '{"messages": []}\n', "utf-8")
        changes = {"data": [str(broken)], "vocab_size": 600, "skip_bad_rows": True, **changes}
        return TrainingSettings().changed(changes, where="test")

    return make


def test_what_cannot_be_read_is_returned_and_not_written(settings, tmp_path):
    data = prepare_data(settings(tmp_path, validation_fraction=0.1))
    assert len(data.training) + len(data.validation) == 100
    assert [(row.row, row.reason) for row in data.bad_rows] == [(101, "the messages are missing")]
    assert data.bad_rows.num_rows == 101
    assert len(data.bad_validation_rows) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["broken.jsonl"]
    assert data.train_exchanges.num_alone + len(data.eval_exchanges) == 152


def test_validation_data_has_bad_rows_of_its_own(settings, conversations_file, tmp_path):
    plain = settings(tmp_path, data=[str(conversations_file)], validation_data=[str(tmp_path / "broken.jsonl")])
    data = prepare_data(plain)
    assert (len(data.training), len(data.bad_rows)) == (100, 0)
    assert [row.row for row in data.bad_validation_rows] == [101]


@pytest.mark.parametrize("fraction", [0, 0.25])
def test_names_are_learnt_as_often_as_is_asked_for_and_validated_once(fraction):
    pytest.importorskip("sklearn")
    once = TrainingSettings().changed({"data": ["starter", "digits"]}, where="test")
    training, validation = (side.conversations for side in conversations_of(once))
    num_digits = len(named_conversations(["digits"]).conversations)
    often = once.changed({"data_repeats": [1, 3], "vocab_size": 3000, "other_topics_fraction": fraction}, where="test")
    data = prepare_data(often)
    # The conversations themselves are there once, so that nobody takes them for doubles.
    assert data.training["messages"][:] == training["messages"][:]
    assert data.validation["messages"][:] == validation["messages"][:]
    exchanges = data.train_exchanges
    num_talks = exchanges.num_alone - num_digits
    assert num_digits > 1000 and num_talks > 1000 and data.eval_exchanges.repeated is None
    num_readings = num_talks + 3 * num_digits
    assert len(exchanges) == exchanges.num_alone + (exchanges.num_twins * num_readings if fraction else 0)
    assert exchanges.num_twins == (2 if fraction else 1)
    drawn = exchanges.drawn(np.random.default_rng(0))
    twins = drawn >= exchanges.num_alone
    assert 0.9 * fraction <= twins.mean() <= 1.1 * fraction
    owners = np.where(twins, exchanges.readings[(drawn - exchanges.num_alone) % num_readings], drawn)
    assert np.bincount(owners).tolist() == [1] * num_talks + [3] * num_digits
    for index in drawn[twins][:50]:
        alone = exchanges.source(exchanges.readings[(index - exchanges.num_alone) % num_readings])
        behind = exchanges.source(index)
        assert len(behind) >= len(alone) and behind[: len(alone) - 1].tolist() == alone[:-1].tolist()
    tokens = [lengths[drawn].sum() for lengths in (exchanges.source_lengths, exchanges.target_lengths)]
    assert sum(tokens) == pytest.approx(exchanges.tokens_per_epoch, rel=0.02)
    assert tokens[1] == exchanges.target_tokens_per_epoch


def test_only_names_are_learnt_several_times(conversations_file):
    files = TrainingSettings().changed({"data": [str(conversations_file)] * 2, "data_repeats": [1, 2]}, where="test")
    with pytest.raises(
        DataError, match="--data-repeats is for names of data, such as starter and emoji, and --data is"
    ):
        conversations_of(files)


@pytest.mark.parametrize("fraction", [None, 0, 0.5])
def test_other_topics_before_single_questions_are_read(settings, tmp_path, fraction):
    single = tmp_path / "single.csv"
    single.write_text("question,answer\n" + "".join(f"what is {n}?,it is {n}.\n" for n in range(40)), "utf-8")
    plan = {"data": [str(single)], "other_topics_fraction": fraction}
    data = prepare_data(settings(tmp_path, **plan))
    assert reads_history(data.tokenizer) == bool(fraction)
    assert len(data.train_exchanges) == data.train_exchanges.num_alone * (1 + MOST_TWINS if fraction else 1)
    if fraction:
        alone, behind = data.train_exchanges.source(0), data.train_exchanges.source(data.train_exchanges.num_alone)
        # The question comes first, and what was said before it after it.
        assert len(behind) > len(alone) and behind[: len(alone) - 1].tolist() == alone[:-1].tolist()


def test_a_given_tokenizer_is_used(settings, tokenizer, tmp_path):
    def from_main(make):
        raise AssertionError

    assert prepare_data(settings(tmp_path), tokenizer=tokenizer, from_main=from_main).tokenizer is tokenizer


def test_of_several_processes_the_main_one_goes_first_and_trains_the_tokenizer(settings, tokenizer, tmp_path):
    events = []

    @contextlib.contextmanager
    def main_first():
        events.append("enter")
        yield
        events.append("leave")

    def from_main(make):
        events.append("tokenizer")
        assert len(make()) > len(tokenizer) / 2
        # Not what this process has made.
        return tokenizer

    data = prepare_data(settings(tmp_path), main_first=main_first, from_main=from_main)
    assert data.tokenizer is tokenizer
    assert events == ["enter", "leave", "tokenizer", "enter", "leave"]


def test_repeats_have_no_effect_with_validation_data_of_its_own():
    pytest.importorskip("sklearn")
    plan = {"data": ["starter", "digits"], "data_repeats": [2, 1], "validation_data": ["digits-held-out"]}
    data = prepare_data(TrainingSettings().changed({**plan, "vocab_size": 1000}, where="test"))
    assert data.train_exchanges.repeated is None and len(data.validation) == 2 * 179


def test_the_tokenizer_learns_texts_as_often_as_an_epoch_reads_them():
    pytest.importorskip("sklearn")
    once = TrainingSettings().changed({"data": ["starter", "digits"], "vocab_size": 1000}, where="test")
    often = once.changed({"data_repeats": [20, 1]}, where="test")
    texts = list(message_texts(named_conversations(["starter"]).conversations))
    lengths = [sum(map(len, prepare_data(settings).tokenizer(texts)["input_ids"])) for settings in (once, often)]
    # Of a small vocabulary, talk has a larger share.
    assert lengths[1] < 0.97 * lengths[0]
