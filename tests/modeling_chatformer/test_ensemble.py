"""What an ensemble has of its own: a cache that its members share, and their decoders without modules."""

import pytest
import torch
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from chatformer import EnsembleConfig, EnsembleForConditionalGeneration

MEMBERS, LAYERS = 3, 2
SOURCE = torch.tensor([[5, 9, 3, 7]])


@pytest.fixture
def model():
    torch.manual_seed(0)
    shape = {"vocab_size": 23, "d_model": 16, "d_ff": 24, "num_heads": 2, "encoder_layers": 1, "decoder_layers": LAYERS}
    model = EnsembleForConditionalGeneration(EnsembleConfig(num_members=MEMBERS, **shape)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("num_beams", [1, 4])
def test_each_member_reads_the_source_once(model, made, num_beams):
    model.generate(SOURCE, num_beams=num_beams, min_new_tokens=9, max_new_tokens=9)
    assert len(made) == MEMBERS


@pytest.mark.parametrize(
    "part",
    [
        lambda model: model.lm_head,
        lambda model: model.model.decoder,
        lambda model: model.lm_head.members[1],
        lambda model: model.model.decoder.members[2].layers[0].feed_forward,
    ],
    ids=["head", "decoder", "a member's head", "a member's layer"],
)
def test_a_hook_is_called_for_each_token(model, made, part):
    expected = model.generate(SOURCE, min_new_tokens=6, max_new_tokens=6)
    calls = []
    part(model).register_forward_hook(lambda *_: calls.append(1))
    made.clear()
    assert torch.equal(model.generate(SOURCE, min_new_tokens=6, max_new_tokens=6), expected)
    assert not made and len(calls) == 6


@pytest.mark.parametrize("part", ["head", "decoder"])
def test_a_part_of_another_class_is_asked_for_each_token(model, made, part):
    module = model.lm_head if part == "head" else model.model.decoder
    calls = []

    class Other(type(module)):
        def forward(self, *arguments, **options):
            calls.append(1)
            return super().forward(*arguments, **options)

    module.__class__ = Other
    model.generate(SOURCE, min_new_tokens=6, max_new_tokens=6)
    assert not made and len(calls) == 6


def test_a_reset_cache_reads_its_next_source(model):
    def cache():
        return EncoderDecoderCache(DynamicCache(config=model.config), DynamicCache(config=model.config))

    other, kept = SOURCE.flip(1), cache()
    assert len(kept.self_attention_cache.layers) == MEMBERS * LAYERS
    model.generate(SOURCE, past_key_values=kept, max_new_tokens=5)
    kept.reset()
    expected = model.generate(other, past_key_values=cache(), max_new_tokens=5)
    assert torch.equal(model.generate(other, past_key_values=kept, max_new_tokens=5), expected)


def test_a_cache_without_layers_is_refused(model):
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    with pytest.raises(ValueError, match=r"must have 6 layers .* it has 0: make it with DynamicCache\(config="):
        model(SOURCE, decoder_input_ids=SOURCE, past_key_values=cache, use_cache=True)


def test_what_has_no_place_is_refused(model):
    with pytest.raises(ValueError, match="num_members must be a whole number"):
        EnsembleConfig(num_members=0)
    with pytest.raises(NotImplementedError, match="before it is made"):
        model.resize_token_embeddings(30)
