import numpy as np
import torch

from chatformer.data.tokenizer import train_tokenizer
from chatformer.evaluation.doctor.model import (
    check_embeddings,
    check_generation,
    check_round_trip,
    check_template,
    check_vocabulary,
    check_weights,
)


def test_weights_that_tell_nothing(model, ill):
    assert ill(check_weights(model)) == {}
    model.model.encoder.layers[0].feed_forward.inner.weight.data.fill_(0.5)
    model.model.decoder.layers[0].self_attention.query.weight.data[0, 0] = torch.nan
    found = ill(check_weights(model, ["lm_head.bias"]))
    assert found["constant weights"].examples == ("model.encoder.layers.0.feed_forward.inner.weight",)
    assert found["finite weights"].examples == ("model.decoder.layers.0.self_attention.query.weight",)
    assert found["missing weights"].examples == ("lm_head.bias",)
    assert {finding.severity for finding in found.values()} == {"problem"}


def test_embeddings_that_came_apart(taught, ill):
    model = taught(steps=0)
    assert ill(check_embeddings(model)) == {}
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    finding = ill(check_embeddings(model))["tied embeddings"]
    assert finding.severity == "problem" and finding.examples == ("lm_head.weight",)


def test_a_tokenizer_of_another_model(model, words, tokenizer, ill):
    assert ill(check_vocabulary(model, words[0])) == {}
    assert len(tokenizer) != len(words[0])
    other = train_tokenizer([chr(0xAC00 + number) * 2 for number in range(300)], vocab_size=700)
    assert ill(check_vocabulary(model, other))["vocabulary"].severity == "problem"
    other = train_tokenizer(["ab"], vocab_size=550)
    other.eos_token = other.pad_token
    assert (
        "eos_token_id: 0 in the tokenizer, 2 in the model"
        in (ill(check_vocabulary(model, other))["vocabulary"].examples[0])
    )
    other.chat_template = None
    assert ill(check_template(other))["chat template"].severity == "problem"


def test_a_tokenizer_that_loses_text(ill):
    from tokenizers import normalizers

    tokenizer = train_tokenizer(["Ab cd"], vocab_size=550)
    texts = ["안녕  하세요 😀", "Ab cd", " x"]
    assert ill(check_round_trip(tokenizer, texts)) == {}
    lowered = normalizers.Sequence([normalizers.Lowercase(), tokenizer.backend_tokenizer.normalizer])
    tokenizer.backend_tokenizer.normalizer = lowered
    finding = ill(check_round_trip(tokenizer, texts))["round trip"]
    assert finding.severity == "problem" and finding.examples == ("Ab cd became ab cd",)


def test_settings_with_which_replies_break_off_or_never_end(taught, ill):
    model, lengths = taught(steps=0), np.array([5, 5, 12])
    assert ill(check_generation(model, lengths)) == {}
    model.generation_config.max_new_tokens = 10
    finding = ill(check_generation(model, lengths))["generation length"]
    assert finding.severity == "problem" and "33%" in finding.found
    model.generation_config.max_new_tokens = None
    assert ill(check_generation(model, lengths))["generation length"].severity == "hint"
    model.generation_config.eos_token_id = None
    assert ill(check_generation(model, lengths))["generation end"].severity == "problem"
