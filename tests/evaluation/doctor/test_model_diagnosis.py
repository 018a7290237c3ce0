import re

import pytest

from chatformer.data.exchanges import encode_exchanges
from chatformer.evaluation.doctor.model import check_parts
from chatformer.evaluation.doctor.model_diagnosis import check_behaviour


def examined(model, words, **options):
    tokenizer, exchanges = words
    findings = check_parts(model, tokenizer)
    return findings + check_behaviour(model, tokenizer, exchanges, max_exchanges=40, **options)


def test_a_model_that_listens_is_well(model, words, ill):
    findings = examined(model, words, known=words[1], training=[("another question", "another one")])
    assert ill(findings) == {}
    assert {finding.check for finding in findings} == {
        *("weights", "tied embeddings", "vocabulary", "chat template", "round trip", "generation", "future", "padding"),
        *("knowledge", "listening", "same reply", "copies", "baselines", "memory"),
    }
    (found,) = (finding.found for finding in findings if finding.check == "same reply")
    assert int(re.match(r"40 different questions got (\d+) different replies", found)[1]) > 30


def silence_cross_attention(model):
    for layer in model.model.decoder.layers:
        layer.cross_attention.output.weight.data.zero_()


def shrink_final_norm(model):
    model.model.encoder.layers[-1].feed_forward_norm.weight.data.zero_()


def drown_the_source(model):
    model.model.encoder.layers[-1].feed_forward_norm.bias.data.fill_(1000)


@pytest.mark.parametrize(
    ("prepare", "cause"),
    [
        (silence_cross_attention, "the decoder does not read them"),
        (shrink_final_norm, "The encoder's last norm has shrunk to 0"),
        (drown_the_source, "The encoder gives the same for every question"),
    ],
    ids=["cross-attention", "final norm", "encoder"],
)
def test_a_model_that_learnt_deaf_is_told_where(words, taught, ill, prepare, cause):
    found = ill(examined(taught(steps=60, prepare=prepare), words))
    assert found["listening"].severity == found["same reply"].severity == "problem"
    assert found["listening"].title == "It does not listen"
    assert found["same reply"].title == "Every input gets the same answer"
    assert cause in found["listening"].found
    assert found["listening"].what_to_do.startswith("Train again")
    assert "It does not listen" in found["same reply"].found


def test_the_log_tells_why_a_model_never_listened(words, taught, log_of, ill):
    deaf = taught(steps=60, learning_rate=0.3)
    log = log_of([0.001, 0.0, 0.002], steps=5000, learning_rate=4e-3, warmup_steps=100)
    finding = ill(examined(deaf, words, log=log))["listening"]
    assert finding.severity == "problem"
    assert "--learning-rate 0.004" in finding.found and "--warmup-steps 100" in finding.found
    assert "--learning-rate 0.001 --warmup-steps 1000" in finding.what_to_do


def test_few_questions_are_not_judged(model, words, questions, ill):
    tokenizer, _ = words
    one = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in questions[:1]
    ]
    exchanges = encode_exchanges(one * 40, tokenizer, 32, 32)
    findings = check_behaviour(model, tokenizer, exchanges, max_exchanges=40)
    assert list(ill(findings)) == ["trial"] and "Only 1 different" in ill(findings)["trial"].found
