import dataclasses

from chatformer.evaluation.doctor.causes import Cause
from chatformer.evaluation.doctor.replies import check_knowledge, check_memory, check_replies
from chatformer.evaluation.doctor.trial import different_questions, try_out


def test_a_frequent_answer_that_became_the_only_one(words, taught, questions):
    tokenizer, exchanges = words
    parrot = taught(steps=0)
    trial = try_out(parrot, tokenizer, exchanges)
    trial = dataclasses.replace(
        trial,
        outcome=dataclasses.replace(trial.outcome, replies=["네"] * 25 + [answer for _, answer in questions[25:]]),
    )
    (finding,) = check_replies(trial, [Cause("Because.", "Do.")])
    assert finding.severity == "problem" and "25 times (62%). Because." in finding.found
    assert finding.what_to_do == "Do." and finding.examples[0] == "25 times: 네"
    # Nothing was learnt either.
    assert check_knowledge(trial, len(tokenizer))[0].severity == "problem"


def test_a_model_that_knows_its_training_by_heart():
    assert check_memory(new=2.0, known=1.8)[0].severity == "good"
    assert check_memory(new=3.6, known=0.2)[0].severity == "hint"


def test_different_questions_are_spread_over_the_data(words, questions, capfd):
    _, exchanges = words
    chosen = different_questions(exchanges, 4)
    # No bar, which takes longer to read than the few questions take.
    assert capfd.readouterr().err == ""
    assert chosen.replies == [questions[index][1] for index in (0, 13, 26, 39)]
    assert [chosen.source(1).tolist(), chosen.target(1).tolist()] == [
        exchanges.source(13).tolist(),
        exchanges.target(13).tolist(),
    ]
