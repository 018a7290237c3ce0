import itertools
import json
import pickle
import random
import subprocess
import sys
from collections import Counter
from importlib import resources

import numpy as np
import pytest

from chatformer.conversation import encode_conversation
from chatformer.data.noise import SourceNoise
from chatformer.data.tokenizer import train_tokenizer

HISTORY = [
    {"role": "system", "content": "짧게 말해 줘"},
    {"role": "user", "content": "따라 해 1 2, 그리고 again!"},
    {"role": "assistant", "content": "네, 1 2 😀 ㅋㅋ"},
    {"role": "user", "content": "고마워, 한 번 더 해 줘"},
]


@pytest.fixture(scope="module")
def starter_texts():
    lines = resources.files("chatformer.data").joinpath("starter/conversations.jsonl").read_text("utf-8")
    messages = [message["content"] for line in lines.splitlines() for message in json.loads(line)["messages"]]
    # Each once, in their order.
    return list(dict.fromkeys(messages))


@pytest.fixture(scope="module")
def starter_tokenizer(starter_texts):
    return train_tokenizer(starter_texts, vocab_size=4000)


@pytest.fixture(scope="module")
def source(starter_tokenizer):
    return np.array(encode_conversation(starter_tokenizer, HISTORY), dtype=np.int32)


def noise(tokenizer, seed=7, **rates):
    return SourceNoise(tokenizer, **{"token_dropout": 0, "word_swap": 0, "bpe_dropout": 0, **rates}, seed=seed)


def ids_of(tokenizer, texts):
    return [np.array(ids, dtype=np.int32) for ids in tokenizer(texts)["input_ids"]]


def turns_of(tokenizer, ids):
    """Return the control tokens, and the other tokens before each of them."""
    controls, turns = [], [[]]
    for token in ids.tolist():
        if token in tokenizer.all_special_ids:
            controls.append(token)
            turns.append([])
        else:
            turns[-1].append(token)
    return controls, turns


def test_without_dropout_every_word_is_merged_as_the_tokenizer_does(starter_tokenizer, starter_texts):
    as_it_is, into_characters = noise(starter_tokenizer), noise(starter_tokenizer, bpe_dropout=1)
    for index, ids in enumerate(ids_of(starter_tokenizer, starter_texts)):
        assert as_it_is(ids, index, epoch=0).tolist() == ids.tolist()
        apart = into_characters(ids, index, epoch=0)
        assert len(apart) > len(ids) or all(
            len(token) == 1 for token in starter_tokenizer.convert_ids_to_tokens(ids[:-1])
        )
        assert as_it_is(apart, index, epoch=0).tolist() == ids.tolist()


def test_without_dropout_other_characters_and_white_space_stay_too(starter_tokenizer):
    chance = random.Random(0)
    characters = "  \n\n\t\r\u3000\u2028가나다안녕하세요abc19!?.,<>|뷁😀\u0301\x1c\ufeff"
    texts = ["".join(chance.choices(characters, k=chance.randrange(40))) for _ in range(1000)]
    # Merges of white space, which would be made over the borders of words.
    tokenizer = train_tokenizer([*texts[:500], "안녕하세요   \n\n  \n\n"] * 2, vocab_size=700)
    assert {"\n\n", "  "} <= tokenizer.get_vocab().keys()
    for encoder in (tokenizer, starter_tokenizer):
        as_it_is = noise(encoder)
        for ids in ids_of(encoder, texts):
            assert as_it_is(ids, 0, epoch=0).tolist() == ids.tolist()


@pytest.mark.parametrize("bpe_dropout", [0.1, 0.5, 1])
def test_bpe_dropout_changes_the_tokens_but_not_the_text(starter_tokenizer, starter_texts, bpe_dropout):
    taken_apart = noise(starter_tokenizer, bpe_dropout=bpe_dropout)
    texts = [*starter_texts[::5], *("👨‍👩‍👧‍👦 뷁 안녕 😀?", "\n두  칸\t")]
    changed = 0
    for index, ids in enumerate(ids_of(starter_tokenizer, texts)):
        noised = taken_apart(ids, index, epoch=0)
        assert starter_tokenizer.decode(noised) == starter_tokenizer.decode(ids)
        changed += noised.tolist() != ids.tolist()
    assert changed > len(texts) / 3


def algorithm_1(symbols, merges, dropout, probability=1.0):
    """Return how probable each result of Algorithm 1 of the paper is, each merge kept or not in every combination."""
    possible = [place for place in range(len(symbols) - 1) if symbols[place : place + 2] in merges]
    results = Counter()
    for is_kept in itertools.product([False, True], repeat=len(possible)):
        share = probability
        for kept in is_kept:
            share *= 1 - dropout if kept else dropout
        places = [place for place, kept in zip(possible, is_kept, strict=True) if kept]
        if not places:
            results[symbols] += share
            continue
        place = min(places, key=lambda place: merges[symbols[place : place + 2]])
        merged = (*symbols[:place], "".join(symbols[place : place + 2]), *symbols[place + 2 :])
        results.update(algorithm_1(merged, merges, dropout, share))
    return results


@pytest.mark.parametrize("dropout", [0.1, 0.6])
def test_words_are_taken_apart_as_often_as_in_the_paper(starter_tokenizer, dropout):
    model = json.loads(starter_tokenizer.backend_tokenizer.to_str())["model"]
    merges = {tuple(pair): rank for rank, pair in enumerate(model["merges"])}
    expected = algorithm_1(tuple(" 안녕하세요"), merges, dropout)
    (ids,) = ids_of(starter_tokenizer, ["안녕하세요"])
    taken_apart, draws = noise(starter_tokenizer, bpe_dropout=dropout), 10_000
    found = Counter(
        tuple(starter_tokenizer.convert_ids_to_tokens(taken_apart(ids, index, epoch=0)[:-1])) for index in range(draws)
    )
    assert len(expected) > 5 and sum(expected.values()) == pytest.approx(1)
    assert found.keys() <= expected.keys()
    for tokens, share in expected.items():
        # Four standard deviations.
        assert found[tokens] / draws == pytest.approx(share, abs=4 * (share * (1 - share) / draws) ** 0.5)


def test_tokens_are_dropped_at_their_rate(starter_tokenizer, starter_texts):
    dropping = noise(starter_tokenizer, token_dropout=0.2)
    sources = [ids for ids in ids_of(starter_tokenizer, starter_texts) if len(ids) > 8]
    noised = [dropping(ids, index, epoch=0) for index, ids in enumerate(sources)]
    share = sum(len(ids) - 1 for ids in noised) / sum(len(ids) - 1 for ids in sources)
    assert share == pytest.approx(0.8, abs=0.01)
    for before, after in zip(sources, noised, strict=True):
        remaining = iter(before)
        assert all(token in remaining for token in after)


@pytest.mark.parametrize(
    "rates",
    [{"token_dropout": 1}, {"word_swap": 1}, {"bpe_dropout": 1}, {"token_dropout": 0.5, "word_swap": 0.5}],
    ids=str,
)
def test_control_tokens_stay_and_every_turn_keeps_a_token_of_its_own(starter_tokenizer, source, rates):
    controls, turns = turns_of(starter_tokenizer, source)
    characters = [set(starter_tokenizer.decode(turn)) for turn in turns]
    noisy = noise(starter_tokenizer, **rates)
    for index in range(50):
        noised_controls, noised_turns = turns_of(starter_tokenizer, noisy(source, index, epoch=0))
        assert noised_controls == controls
        for turn, noised, its_own in zip(turns, noised_turns, characters, strict=True):
            assert bool(noised) == bool(turn)
            assert set(starter_tokenizer.decode(noised)) <= its_own


def test_of_a_character_in_bytes_no_part_is_dropped(starter_tokenizer):
    dropping = noise(starter_tokenizer, token_dropout=0.7)
    (ids,) = ids_of(starter_tokenizer, ["안녕 뷁 여러분 🦄 잘 지내요"])
    for index in range(50):
        text = starter_tokenizer.decode(dropping(ids, index, epoch=0))
        assert "뷁" in text and "🦄" in text and "\ufffd" not in text


def test_neighbouring_words_change_places(tokenizer):
    text, swapped = "따라 해 1 2 네, again!", "해 따라 2 1 again! 네,"
    (ids,) = ids_of(tokenizer, [text])
    assert tokenizer.decode(noise(tokenizer, word_swap=1)(ids, 0, epoch=0), skip_special_tokens=True) == swapped
    swapping = noise(tokenizer, word_swap=0.3)
    places = {word: place for place, word in enumerate(text.split())}
    moved = 0
    for index in range(500):
        words = tokenizer.decode(swapping(ids, index, epoch=0), skip_special_tokens=True).split()
        assert sorted(words) == sorted(places)
        assert all(abs(places[word] - place) <= 1 for place, word in enumerate(words))
        moved += words.index("따라")
    assert moved / 500 == pytest.approx(0.3, abs=0.06)


IN_ANOTHER_PROCESS = """
import pickle, sys
noise, source = pickle.load(sys.stdin.buffer)
print([noise(source, index, epoch=epoch).tolist() for epoch in (1, 0) for index in (1, 0)][::-1])
"""


def test_noise_is_of_the_seed_the_epoch_and_the_index_alone(starter_tokenizer, source, environment):
    rates = {"token_dropout": 0.1, "word_swap": 0.2, "bpe_dropout": 0.2}
    made = noise(starter_tokenizer, **rates)
    expected = [made(source, index, epoch=epoch).tolist() for epoch in (0, 1) for index in (0, 1)]
    other_seed = [noise(starter_tokenizer, seed=8, **rates)(source, 0, epoch=epoch).tolist() for epoch in (0, 1)]
    assert len(set(map(tuple, [*expected, *other_seed]))) == 6

    found = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS],
        input=pickle.dumps([noise(starter_tokenizer, **rates), source]),
        env=environment,
        capture_output=True,
    )
    assert found.returncode == 0, found.stderr.decode()
    assert json.loads(found.stdout) == expected


def test_noise_has_the_kind_of_the_source_and_leaves_it_alone(starter_tokenizer, source):
    before = source.copy()
    noised = noise(starter_tokenizer, token_dropout=0.5, word_swap=0.5, bpe_dropout=0.5)(source, 0, epoch=0)
    assert noised.dtype == source.dtype and noised.ndim == 1
    assert np.array_equal(source, before) and not np.array_equal(noised, before)


@pytest.mark.parametrize("name", ["token_dropout", "word_swap", "bpe_dropout"])
@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_a_rate_that_is_no_probability_is_refused(tokenizer, name, rate):
    with pytest.raises(ValueError, match=rf"^{name} \({rate}\) must be from 0 to 1: it is a probability\.$"):
        noise(tokenizer, **{name: rate})
