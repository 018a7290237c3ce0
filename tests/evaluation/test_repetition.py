import pytest

from chatformer.evaluation.figures import reply_figures
from chatformer.evaluation.repetition import repeats_itself


@pytest.mark.parametrize(
    "text",
    [
        "새로운 새로운 지켜만 남았네요",
        "모든 모든 것을 것을",
        "The the end.",
        "no, no.",
        "no. no. no. no.",
        "I see. I see.",
        "안녕, “안녕”!",
        "I am I am here",
        "first we go home, then we rest, then we go home",
        "one two three four one two three",
        "3 3",
        "yes yes ㅋㅋ",
    ],
)
def test_texts_that_repeat_themselves(text):
    assert repeats_itself(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "...",
        "안녕하세요! 저는 챗포머예요.",
        "아주 좋아요. 정말 아주 좋아요.",
        "the dog and the cat and the bird",
        "ㅋㅋㅋ 정말 ㅋㅋㅋ",
        "ㅋㅋ ㅋㅋ 재밌네요 ㅠㅠ ㅠㅠ ㅠㅠ ㅠㅠ",
        "wait ... ... what?",
        "banana",
        "한국어 한국어로",
        "one two three, two one three",
        "Thank you! You are kind.",
        "no . no",
        "No. No.",
    ],
)
def test_texts_that_do_not(text):
    assert not repeats_itself(text)


def test_a_word_between_two_of_the_same_makes_them_no_double():
    assert repeats_itself("정말 정말") and not repeats_itself("정말 ㅋㅋ 정말")


def test_the_figure_is_the_share_of_replies():
    replies = ["네 네 알겠어요", "네, 알겠어요", "그래요", "그래요"]
    assert reply_figures(replies, replies).repeated_words == 25
    assert reply_figures([], []).repeated_words is None
