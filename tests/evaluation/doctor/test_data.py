import numpy as np
import pytest

from chatformer.data.named import named_conversations
from chatformer.evaluation.doctor.conversations import Conversations
from chatformer.evaluation.doctor.data import check_bad_rows, check_conversations, check_leaks
from chatformer.evaluation.doctor.lengths import check_lengths, lengths_of
from chatformer.pictures import text_of_pixels


def test_the_starter_corpus_has_nothing_wrong(ill):
    conversations = Conversations(named_conversations(["starter"]).conversations)
    findings = check_conversations(conversations) + check_lengths(conversations, lengths_of(conversations))
    assert ill(findings) == {}
    assert len({finding.check for finding in findings}) == len(findings) >= 11
    assert all(finding.title and not finding.what_to_do for finding in findings)


def test_pictures_say_something_in_letters_that_mean_something(conversations_of, healthy, ill):
    picture = text_of_pixels(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    drawn = [(f"draw {number}", picture + picture[number % 16]) for number in range(200)]
    findings = ill(check_conversations(conversations_of(healthy() + drawn)))
    assert not {"empty answers", "broken text"} & set(findings)
    among_words = [(question, f"here: {answer}") for question, answer in drawn]
    assert "broken text" in ill(check_conversations(conversations_of(healthy() + among_words)))


def test_data_in_which_nothing_is_wrong(conversations_of, healthy, ill):
    assert ill(check_conversations(conversations_of(healthy()))) == {}


@pytest.mark.parametrize(
    ("change", "check", "severity", "words"),
    [
        (lambda pairs: pairs[:100], "amount", "problem", ["100 conversations"]),
        (lambda pairs: pairs[:500], "amount", "hint", ["500 conversations"]),
        (lambda pairs: [*pairs, *pairs[:100]], "duplicates", "hint", ["100 of 2,100", "100 word for word"]),
        (
            lambda pairs: [*pairs, *((q.upper(), f"  {a}") for q, a in pairs)],
            "duplicates",
            "problem",
            ["2,000 apart from case and spaces", "conversation 2001: HOW MUCH IS 0?", "also in conversation 1)"],
        ),
        (
            lambda pairs: [(f"what {number % 100}", a) for number, (_, a) in enumerate(pairs)],
            "many answers",
            "problem",
            ["100 of 100 questions", "what 0 → 20 answers, such as it is 0 won. | it is 100 won."],
        ),
        (
            lambda pairs: [(q, a if number % 8 else "I don't know.") for number, (q, a) in enumerate(pairs)],
            "frequent answers",
            "problem",
            ['12% of all replies are "I don\'t know."', "250 times"],
        ),
        (
            lambda pairs: [(q, q.upper() if number % 10 == 3 else a) for number, (q, a) in enumerate(pairs)],
            "echoes",
            "problem",
            ["200 of 2,000 (10%)", "conversation 4: how much is 3? → HOW MUCH IS 3?"],
        ),
        (
            lambda pairs: [(q, "?!" + "." * (number % 30) if number % 3 else a) for number, (q, a) in enumerate(pairs)],
            "empty answers",
            "problem",
            ["1,333 of 2,000"],
        ),
        (
            lambda pairs: [(f"User: {q}", f"Bot: {a}") for q, a in pairs],
            "labels in text",
            "problem",
            ["User: how much is 0?"],
        ),
        (lambda pairs: [*pairs, ("hm", "so<|end|>")], "labels in text", "hint", ["conversation 2001", "<|end|>"]),
        (lambda pairs: [(q, str(number % 3)) for number, (q, _) in enumerate(pairs)], "labels", "problem", ["'0'"]),
        (lambda pairs: [(a, q) for q, a in pairs], "labels", "hint", ["100% of the answers", "0% of the questions"]),
        (
            lambda pairs: [*pairs, *((f"뭐야 {number}", f"그건 {number}") for number in range(20))],
            "languages",
            "hint",
            ["Latin 99%, Hangul 0.99%", "conversation 2001"],
        ),
    ],
)
def test_data_that_is_ill_in_one_way(conversations_of, healthy, ill, change, check, severity, words):
    finding = ill(check_conversations(conversations_of(change(healthy()))))[check]
    assert finding.severity == severity
    assert finding.what_to_do
    told = "\n".join([finding.found, *finding.examples])
    for word in words:
        assert word in told


def test_leaks_between_the_splits(conversations_of, dataset_of, healthy, ill):
    pairs = healthy(200)
    training, clean = conversations_of(pairs[:100]), conversations_of(pairs[100:])
    assert ill(check_leaks(training, clean)) == {}
    leaking = conversations_of([*pairs[100:], ("How  much is 7?", "seven")])
    finding = ill(check_leaks(training, leaking))["leaks"]
    assert finding.severity == "hint" and "1 of 101" in finding.found
    assert "in training: conversation 8" in finding.examples[0]
    assert ill(check_leaks(training, conversations_of(pairs[95:])))["leaks"].severity == "problem"

    behind_others = dataset_of(pairs[100:]).map(
        lambda row: {
            "messages": [
                *row["messages"],
                {"role": "user", "content": pairs[3][0]},
                {"role": "assistant", "content": pairs[3][1]},
            ]
        }
    )
    findings = ill(check_leaks(training, Conversations(behind_others)))
    assert list(findings) == ["leaked answers"] and "100 of 200" in findings["leaked answers"].found


def test_rows_that_are_no_conversation():
    rows = [{"file": "a.csv", "row": 7, "reason": "the answer is empty", "content": "x"}]
    (finding,) = check_bad_rows(rows, 10, left_out=False)
    assert finding.severity == "problem" and finding.examples == ("a.csv, row 7: the answer is empty",)
    assert check_bad_rows(rows, 10, left_out=True)[0].severity == "hint"
    assert check_bad_rows([], 10, left_out=False)[0].severity == "good"
