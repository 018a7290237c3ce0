import sys

import torch
from transformers.masking_utils import create_bidirectional_mask

from chatformer.evaluation.doctor.dependence import check_future, check_padding


def test_a_decoder_that_sees_the_future_is_caught(model, words, ill, monkeypatch):
    assert ill(check_future(model, words[1])) == {}

    def see_all(config, inputs_embeds, attention_mask, *arguments, **options):
        return create_bidirectional_mask(config, inputs_embeds, None)

    module = sys.modules[type(model.model.decoder).__module__]
    monkeypatch.setattr(module, "create_causal_mask", see_all)
    monkeypatch.setattr(model.model.decoder.layers[0].self_attention, "is_causal", False)
    (finding,) = check_future(model, words[1])
    assert finding.severity == "problem" and finding.check == "future"


def test_padding_that_is_not_masked_is_caught(model, words, monkeypatch):
    forward = type(model).forward

    def without_mask(self, attention_mask=None, **inputs):
        return forward(self, attention_mask=None, **inputs)

    monkeypatch.setattr(type(model), "forward", without_mask)
    (finding,) = check_padding(model, words[1])
    assert finding.severity == "problem" and "on the right" in finding.found and "on the left" in finding.found


def test_positions_that_count_padding_are_caught(model, words, monkeypatch):
    def count_all(mask_BT):
        return torch.arange(mask_BT.shape[1]).expand_as(mask_BT)

    monkeypatch.setattr(sys.modules[type(model.model.encoder).__module__], "positions_of", count_all)
    (finding,) = check_padding(model, words[1])
    assert finding.severity == "hint" and "on the left" in finding.found and "on the right" not in finding.found
