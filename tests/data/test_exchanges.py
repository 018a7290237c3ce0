import itertools

import datasets
import numpy as np
import pyarrow as pa
import pytest

from chatformer.conversation import encode_conversation
from chatformer.data import exchanges
from chatformer.data.exchanges import Sequences, content_digest, encode_exchanges
from chatformer.data.messages import DataError


def said(*contents, system=None):
    """Return messages in which user and assistant take turns."""
    turns = [{"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(contents)]
    return [{"role": "system", "content": system}, *turns] if system else turns


def test_every_reply_is_an_exchange_with_the_turns_before_it(tokenizer):
    messages = said("안녕", "반가워요", "again!", "네", "고마워", "뭘요", system="짧게")
    encoded = encode_exchanges([{"messages": messages}, {"messages": said("1 2", "3")}], tokenizer, 100, 100)
    assert encoded.replies == ["반가워요", "네", "뭘요", "3"]
    assert encoded.histories == [messages[:2], messages[:4], messages[:6], said("1 2")]
    for index in range(4):
        assert encoded.source(index).tolist() == encode_conversation(tokenizer, encoded.histories[index])
        assert encoded.target(index).tolist() == tokenizer(encoded.replies[index])["input_ids"]
        assert encoded.source_lengths[index] == len(encoded.source(index))
        assert encoded.target_lengths[index] == len(encoded.target(index))


def test_replies_that_are_too_long_are_left_out_and_counted(tokenizer):
    messages = said("1", "가" * 50, "2", "네", "3", "나" * 50)
    limit = len(tokenizer("네")["input_ids"])
    encoded = encode_exchanges([{"messages": messages}], tokenizer, 1000, limit)
    assert (encoded.replies, encoded.num_too_long) == (["네"], 2)
    # It stays what the model is asked after.
    assert encoded.histories == [messages[:3]]


def test_too_long_sources_can_be_left_out_or_refused_as_well(tokenizer):
    conversations = [{"messages": said("1", "네", "가" * 50, "응")}]
    whole = encode_exchanges(conversations, tokenizer, 1000, 100)
    limit = int(whole.source_lengths[0])
    cut = encode_exchanges(conversations, tokenizer, limit, 100)
    assert (cut.replies, cut.source_lengths.tolist()) == (["네", "응"], [limit, limit])
    dropped = encode_exchanges(conversations, tokenizer, limit, 100, too_long="drop")
    assert (dropped.replies, dropped.num_too_long) == (["네"], 1)
    with pytest.raises(DataError, match="too long"):
        encode_exchanges(conversations, tokenizer, limit, 100, too_long="refuse")
    assert len(encode_exchanges(conversations, tokenizer, 1000, 100, too_long="refuse")) == 2


def same(one, other):
    return one.rows.to_list() == other.rows.to_list() and one.num_too_long == other.num_too_long


def test_what_was_encoded_once_is_read_from_its_file(conversations, tokenizer, tmp_path, monkeypatch):
    encoded = encode_exchanges(conversations, tokenizer, 100, 4, cache_folder=tmp_path)
    assert encoded.num_too_long and same(encoded, encode_exchanges(conversations, tokenizer, 100, 4))
    monkeypatch.setattr(exchanges, "_encode_batch", None)
    assert same(encoded, encode_exchanges(conversations, tokenizer, 100, 4, cache_folder=tmp_path))
    # Anything else is another file's.
    for others, limits in ((conversations[1:], (100, 4)), (conversations, (100, 6))):
        with pytest.raises(TypeError):
            encode_exchanges(others, tokenizer, *limits, cache_folder=tmp_path)


def test_a_digest_is_of_the_conversations_and_not_of_how_they_lie():
    rows = [{"messages": said(f"{number}", f"답 {number}")} for number in range(30)]
    whole = datasets.Dataset.from_list(rows)
    digest = content_digest(whole)
    in_pieces = datasets.concatenate_datasets([datasets.Dataset.from_list(part) for part in (rows[:7], rows[7:])])
    chosen = datasets.Dataset.from_list([rows[0], *rows]).select(range(1, 31))
    assert content_digest(in_pieces) == content_digest(chosen) == digest
    for changed in (
        rows[1:],
        rows[::-1],
        [*rows[:-1], {"messages": said("29", "답 30")}],
        [{"messages": [{**message, "role": "system"} for message in rows[0]["messages"]]}, *rows[1:]],
        # The same letters and roles, cut elsewhere.
        [{"messages": rows[0]["messages"] + rows[1]["messages"]}, *rows[2:]],
    ):
        assert content_digest(datasets.Dataset.from_list(changed)) != digest
    one, other = (datasets.Dataset.from_list([{"messages": said(*texts)}]) for texts in (("12", "3"), ("1", "23")))
    assert content_digest(one) != content_digest(other)


def test_several_processes_encode_what_one_does(conversations, tokenizer, tmp_path):
    one = encode_exchanges(conversations, tokenizer, 100, 4)
    several = encode_exchanges(conversations, tokenizer, 100, 4, num_processes=2, cache_folder=tmp_path)
    assert same(one, several)
    assert [one.source(index).tolist() for index in range(len(one))] == [
        several.source(index).tolist() for index in range(len(one))
    ]


def test_when_no_exchange_is_left_that_is_no_error(tokenizer):
    encoded = encode_exchanges([{"messages": said("1", "2")}], tokenizer, 100, 1)
    assert (len(encoded), encoded.num_too_long) == (0, 1)


@pytest.mark.parametrize("system", [None, "짧게 말해"])
def test_a_conversation_is_cut_by_whole_exchanges_and_no_more_than_needed(tokenizer, system):
    turns = said("하나", "one", "둘", "two", "셋", "three", "넷")
    opening = said(system=system)
    # What is left of seven turns is seven, five, three or one.
    kept = [encode_conversation(tokenizer, opening + turns[begin:]) for begin in (0, 2, 4, 6)]
    for longer, shorter in itertools.pairwise(kept):
        for max_tokens in (len(longer) - 1, len(shorter)):
            assert encode_conversation(tokenizer, opening + turns, max_tokens) == shorter
    assert encode_conversation(tokenizer, opening + turns, len(kept[0])) == kept[0]


def test_a_last_turn_that_is_too_long_alone_keeps_its_end(tokenizer):
    messages = said("하나", "one", "가나다라마바사아자차카타파하", system="짧게")
    alone = encode_conversation(tokenizer, [messages[0], messages[-1]])
    assert encode_conversation(tokenizer, messages, 7) == alone[-7:]
    assert len(encode_conversation(tokenizer, messages)) > len(alone)


def test_lists_of_ids_as_rows_whatever_chunks_they_lie_in():
    lists = [[1, 2, 3], [], [4], [5, 6], [7, 8, 9, 10]]
    chunks = [pa.array(part, pa.list_(pa.int32())) for part in (lists[:2], [], lists[2:])]
    # A slice of a chunk begins in the middle of its buffers.
    sequences = Sequences(pa.chunked_array([*chunks, pa.array(lists, pa.list_(pa.int32()))[3:]]))
    lists += lists[3:]
    indices = np.array([6, 0, 2, 5, 1, 0])
    expected = np.full((len(indices), 4), -100)
    for row, index in zip(expected, indices, strict=True):
        row[: len(lists[index])] = lists[index]
    assert np.array_equal(sequences.padded(indices, -100), expected)
