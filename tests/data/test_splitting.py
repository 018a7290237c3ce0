import datasets
import pytest

from chatformer.data import arrow, splitting
from chatformer.data.conversations import load_conversations
from chatformer.data.messages import DataError
from chatformer.data.splitting import split_conversations

GREETING = [{"role": "user", "content": "안녕"}, {"role": "assistant", "content": "반가워요"}]


def questions_of(conversations: datasets.Dataset) -> list[str]:
    return [messages[0]["content"] for messages in conversations["messages"]]


def loaded(**columns: list) -> datasets.Dataset:
    return load_conversations(datasets.Dataset.from_dict(columns)).conversations


def dataset_of(*questions: str) -> datasets.Dataset:
    return loaded(Q=list(questions), A=["네"] * len(questions))


def test_a_split_has_every_conversation_once_and_no_opening_twice():
    questions = [f"질문 {number % 70}" for number in range(200)]
    training, validation = split_conversations(dataset_of(*questions), validation_fraction=0.1, seed=1)
    # Groups of two and three do not always add up to 20.
    assert 18 <= len(validation) <= 20
    sides = [questions_of(side) for side in (training, validation)]
    assert sorted(sides[0] + sides[1]) == sorted(questions)
    assert not set(sides[0]) & set(sides[1])


def test_openings_are_compared_without_case_and_spacing():
    conversations = dataset_of(*["Hello  there", " hello THERE", "HELLO\tthere\n", "Straße", "STRASSE"] * 3)
    for seed in range(10):
        training, validation = split_conversations(conversations, validation_fraction=0.4, seed=seed)
        assert {len(training), len(validation)} == {6, 9}
        starts = [{question[:2].casefold() for question in questions_of(side)} for side in (training, validation)]
        assert not starts[0] & starts[1]


def test_a_system_message_belongs_to_the_opening():
    asked = [*GREETING, {"role": "user", "content": "또?"}, {"role": "assistant", "content": "네"}]
    told = [{"role": "system", "content": "짧게"}, *GREETING]
    conversations = loaded(messages=[GREETING, asked, told, told])
    training, validation = split_conversations(conversations, validation_fraction=0.5, seed=0)
    sides = sorted([list(training["messages"]), list(validation["messages"])], key=lambda side: len(side[0]))
    assert {len(side) for side in sides} == {2}
    for side in sides:
        assert len({messages[0]["role"] for messages in side}) == 1
    same_system = [[told[0], {"role": "user", "content": question}, told[2]] for question in ("하나", "둘")]
    conversations = loaded(messages=same_system)
    assert [len(side) for side in split_conversations(conversations, validation_fraction=0.5, seed=0)] == [1, 1]


def test_a_split_depends_on_the_seed_and_not_on_the_order():
    questions = [f"질문 {number}" for number in range(50)]

    def kept(order, seed):
        _, validation = split_conversations(dataset_of(*order), validation_fraction=0.2, seed=seed)
        return set(questions_of(validation))

    assert kept(questions, 1) == kept(questions, 1) == kept(questions[::-1], 1)
    assert kept(questions, 1) != kept(questions, 2)
    assert len(kept(questions, 2)) == 10


def test_the_order_of_rows_is_kept():
    conversations = dataset_of(*[f"{number:02}" for number in range(50)])
    for side in split_conversations(conversations, validation_fraction=0.3, seed=3):
        assert questions_of(side) == sorted(questions_of(side))


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
    with pytest.raises(DataError, match="1 different opening cannot"):
        split_conversations(conversations, validation_fraction=0.5, seed=0)
    for fraction in (-0.1, 1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="at least 0 and less than 1"):
            split_conversations(conversations, validation_fraction=fraction, seed=0)


def test_a_split_looks_further_where_the_first_lots_do_not_suffice(monkeypatch):
    # One opening is most of the data, and the others' lots are spread over all.
    questions = ["안녕"] * 160 + [f"질문 {number}" for number in range(40)]
    shares = []

    def draw(conversations, wanted, seed, share):
        shares.append(share)
        return plain_draw(conversations, wanted, seed, share)

    plain_draw = splitting._draw
    monkeypatch.setattr(splitting, "_draw", draw)
    asked = dataset_of(*questions)
    few = [split_conversations(asked, validation_fraction=0.1, seed=seed) for seed in range(3)]
    assert set(shares) == {1}
    shares.clear()
    monkeypatch.setattr(arrow, "CONVERSATIONS_IN_MEMORY", 20)
    many = [split_conversations(asked, validation_fraction=0.1, seed=seed) for seed in range(3)]
    assert {0.2, 0.4} <= set(shares)
    assert [[part.to_list() for part in split] for split in many] == [
        [part.to_list() for part in split] for split in few
    ]
