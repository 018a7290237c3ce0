import datasets
import pytest

from chatformer.data.exchanges import encode_exchanges
from chatformer.training.thread import thread_findings
from chatformer.training.turns import OtherTopics, ask_behind_other_topics, ask_with_histories


def dataset_of(conversations):
    message = {"role": datasets.Value("string"), "content": datasets.Value("string")}
    return datasets.Dataset.from_list(conversations, datasets.Features({"messages": datasets.List(message)}))


def said(*texts, system=None):
    turns = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]
    return {"messages": [{"role": "system", "content": system}] * (system is not None) + turns}


class Parrot:
    """Replies with the ids of all that it reads, or of the last so many."""

    def __init__(self, last=0):
        self.last = last
        self.sources = []

    def generate(self, sources, search):
        assert not search.do_sample and search.num_beams == 1 and search.max_new_tokens
        self.sources += sources
        return [source[-self.last :] for source in sources]


QUESTIONS = [f"따라 해 {number // 10} {number % 10}" for number in range(100)]


@pytest.fixture
def single():
    return dataset_of([said(question, f"네, {question[-3:]}", system="짧게") for question in QUESTIONS])


def test_a_question_is_asked_behind_more_and_more_other_exchanges(tokenizer, single):
    parrot = Parrot()
    topics = ask_behind_other_topics(parrot, tokenizer, single, num_questions=20, max_source_tokens=None, seed=3)
    assert len(parrot.sources) == 100 and list(topics.replies) == [0, 1, 2, 3, 5]
    assert len(set(topics.questions)) == 20
    system, user, end = (tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("system", "user", "end"))
    by_question = {question: {} for question in topics.questions}
    for source in parrot.sources:
        # One system message, in front, and the question next, as the newest turn.
        assert source.count(system) == 1 and source[0] == system and source.count(end) == 1
        text = tokenizer.decode(source).removesuffix("<|end|>")
        question = text.split("<|user|>")[1].split("<|assistant|>")[0].strip()
        by_question[question][source.count(user) - 1] = text
    for question, reference in zip(topics.questions, topics.references, strict=True):
        texts = by_question[question]
        assert sorted(texts) == [0, 1, 2, 3, 5]
        assert all(text.count(question) == 1 and reference not in text for text in texts.values())
        # What comes before a question behind one exchange comes nearest to it behind more.
        assert all(texts[number].startswith(texts[1]) for number in (2, 3, 5))
    again = ask_behind_other_topics(Parrot(), tokenizer, single, num_questions=20, max_source_tokens=None, seed=3)
    other = ask_behind_other_topics(Parrot(), tokenizer, single, num_questions=20, max_source_tokens=None, seed=4)
    assert again == topics and other.questions != topics.questions


def test_what_is_too_long_loses_its_oldest_exchanges_as_in_a_chat(tokenizer, single):
    parrot = Parrot()
    ask_behind_other_topics(parrot, tokenizer, single, num_questions=10, max_source_tokens=30)
    assert max(map(len, parrot.sources)) <= 30
    system = tokenizer.convert_tokens_to_ids("<|system|>")
    assert all(source[0] == system for source in parrot.sources)


def test_data_of_one_answer_has_no_other_topics(tokenizer):
    same = dataset_of([said(question, "네") for question in QUESTIONS[:5]])
    parrot = Parrot()
    topics = ask_behind_other_topics(parrot, tokenizer, same, num_questions=5, max_source_tokens=None)
    assert topics.unchanged(5) == 100 and topics.exact(0) == 0


def test_figures_by_hand():
    topics = OtherTopics(["a", "b", "c", "d"], ["1", "2", "3", "4"], {0: ["1", "2", "3", "x"], 1: ["1", "y", "3", "x"]})
    assert [topics.exact(number) for number in (0, 1)] == [75, 50]
    assert [topics.unchanged(number) for number in (0, 1)] == [100, 75]


def test_follow_ups_are_asked_with_their_own_history_with_anothers_and_alone(tokenizer):
    conversations = [said(f"따라 해 {number} {number}", "네", "again!", f"{number} {number}") for number in range(10)]
    exchanges = encode_exchanges(conversations, tokenizer, 200, 40)
    parrot = Parrot()
    histories = ask_with_histories(parrot, tokenizer, exchanges, num_questions=4, max_source_tokens=None)
    assert histories.questions == ["again!"] * 4 and len(parrot.sources) == 12
    assert list(histories.replies) == ["its own", "another's", "none"]
    for reference, own, another, alone in zip(histories.references, *histories.replies.values(), strict=True):
        assert reference in own
        assert reference not in another and "따라 해" in another and another.startswith("again!")
        assert alone == "again!"
    singles = encode_exchanges(conversations[:1], tokenizer, 200, 40)
    assert ask_with_histories(parrot, tokenizer, singles, num_questions=4, max_source_tokens=None) is None


def asked(unchanged_after, count=20, alone=None):
    """Return 20 questions of which so many percent get the same reply behind one, two and three exchanges."""
    alone = alone or [f"reply {number}" for number in range(count)]
    behind = {
        number: [reply if index < share * count / 100 else "?" for index, reply in enumerate(alone)]
        for number, share in enumerate(unchanged_after, start=1)
    }
    return OtherTopics([f"question {number}" for number in range(count)], alone, {0: alone, **behind})


@pytest.mark.parametrize(
    ("unchanged", "severity", "title"),
    [
        ([100, 95, 90], "good", "It keeps the thread"),
        ([95, 90, 85], "hint", "It loses the thread"),
        ([60, 25, 5], "problem", "It loses the thread"),
    ],
)
def test_a_model_loses_the_thread_if_replies_change_behind_other_topics(unchanged, severity, title):
    (finding,) = thread_findings(asked(unchanged), None)
    assert (finding.severity, finding.title, finding.check) == (severity, title, "thread")
    one, two, three = unchanged
    assert f"After one exchange on other topics {one}% of 20 replies" in finding.found
    assert f"after two {two}%, after three {three}%." in finding.found


def test_the_advice_depends_on_what_the_training_had():
    for fraction in (None, 0.0, 0.1):
        (finding,) = thread_findings(asked([60, 25, 5]), fraction)
        assert finding.what_to_do.startswith("Train again with --other-topics-fraction 0.25,")
        assert finding.examples[0] == "question 1 → reply 1; after three exchanges → ?"
    (finding,) = thread_findings(asked([60, 25, 5]), 0.3)
    assert finding.what_to_do.startswith("Train again for longer, or with more than --other-topics-fraction 0.3,")


def test_of_few_questions_or_one_reply_to_all_nothing_is_said():
    assert thread_findings(asked([0, 0, 0], count=9), None) == []
    assert thread_findings(asked([100, 100, 100], alone=["."] * 11 + ["?"] * 9), None) == []
