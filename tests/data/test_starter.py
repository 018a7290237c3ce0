"""The follow-ups of the starter corpus: no reply of theirs follows from its last turn alone."""

import re
from collections import Counter, defaultdict

import pytest

from chatformer.data.conversations import load_conversations
from chatformer.data.messages import exchanges
from chatformer.data.named import STARTER_FILES, named_conversations, starter_file


def normal(text):
    return " ".join(re.findall(r"\w+", text.casefold()))


@pytest.fixture(scope="module")
def follow_ups():
    return list(load_conversations(str(starter_file("follow_ups.jsonl"))).conversations["messages"])


def test_there_are_enough_of_them_in_korean_and_english(follow_ups):
    assert len(follow_ups) >= 600
    lengths = Counter(len(messages) // 2 for messages in follow_ups)
    assert set(lengths) <= {2, 3, 4, 5} and all(lengths[number] for number in (2, 3, 4))
    korean = sum(bool(re.search("[가-힣]", messages[0]["content"])) for messages in follow_ups)
    assert 200 <= korean <= len(follow_ups) - 150


def test_no_reply_follows_from_its_last_turn_alone(follow_ups):
    replies = defaultdict(Counter)
    for messages in follow_ups:
        for history, reply in exchanges(messages):
            if len(history) > 1:
                replies[normal(history[-1]["content"])][reply] += 1
    for question, found in replies.items():
        assert len(found) >= 3, (question, found)
        # Whoever learns them by heart is right with the most frequent one in less than half of all.
        assert found.most_common(1)[0][1] < 0.5 * found.total(), (question, found)


def test_no_conversation_opens_as_another_does(follow_ups):
    openings = Counter(normal(messages[0]["content"]) for messages in follow_ups)
    assert openings.most_common(1)[0][1] == 1
    others = load_conversations(str(starter_file("conversations.jsonl"))).conversations["messages"]
    assert not openings.keys() & {normal(messages[0]["content"]) for messages in others}


def test_the_corpus_is_all_of_its_files(follow_ups):
    corpus = named_conversations(["starter"]).conversations
    assert len(corpus) == sum(len(load_conversations(str(starter_file(name))).conversations) for name in STARTER_FILES)
    assert list(corpus["messages"])[-len(follow_ups) :] == follow_ups
    assert len(named_conversations(["starter"], max_rows=10).conversations) == 10


@pytest.mark.parametrize(
    "message",
    [
        *("안녕", "고마워", "미안해", "잘 가", "잘 자", "이름이 뭐야?", "뭐 해?", "기분 어때?", "심심해", "사랑해"),
        *("hi", "thank you", "sorry", "bye", "good night", "What is your name?", "who are you?", "how are you?"),
    ],
)
def test_what_people_say_first_has_many_wordings(message):
    """A small model takes each wording as a question of its own: a letter in another case is another token."""
    conversations = load_conversations(str(starter_file("conversations.jsonl"))).conversations["messages"]
    alone = [messages for messages in conversations if len(messages) == 2]
    (reply,) = {answer["content"] for question, answer in alone if question["content"] == message}
    wordings = {question["content"] for question, answer in alone if answer["content"] == reply}
    assert len(wordings) >= 10, wordings
