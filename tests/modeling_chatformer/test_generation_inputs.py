"""Tokens that the modules decode: masks made once for each source, and caches that are cut, reset or copied."""

import copy
import gc

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache, GenerationMixin, StaticCache

import chatformer.generation

SOURCES = torch.tensor([[5, 9, 8, 7, 2, 1, 1], [6, 2, 1, 1, 1, 1, 1], [1, 1, 30, 31, 32, 33, 2]])
MASK = (SOURCES != 1).long()
REPLIES = torch.tensor([[0, 11, 12, 13, 14, 15], [0, 21, 22, 23, 24, 25], [0, 31, 5, 33, 2, 35]])


def new_cache(model):
    return EncoderDecoderCache(DynamicCache(config=model.config), DynamicCache(config=model.config))


def step(model, replies, **inputs):
    """Return the logits after the last of the replies' tokens, as `generate()` asks for them."""
    inputs = model.prepare_inputs_for_generation(replies, next_sequence_length=1, use_cache=True, **inputs)
    return model(**inputs).logits


def token_by_token(model, mask=MASK, cache=None, sources=SOURCES, replies=REPLIES, **options):
    """Return the logits after each token of the replies, and the cache."""
    cache = new_cache(model) if cache is None else cache
    options = {"attention_mask": mask, "past_key_values": cache, **options}
    with torch.no_grad():
        options["encoder_outputs"] = model.get_encoder()(sources, mask)
        logits = [step(model, replies[:, : position + 1], **options) for position in range(replies.shape[1])]
    return torch.cat(logits, dim=1), cache


def at_once(model, mask=MASK, sources=SOURCES):
    """Return the same logits, of the modules."""
    with torch.no_grad():
        return model(sources, mask, decoder_input_ids=REPLIES, use_cache=False).logits


def test_where_the_modules_run_their_inputs_are_the_stock_ones(make_model):
    model = make_model()
    caches = [StaticCache(config=model.config, max_cache_len=length) for length in (8, SOURCES.shape[1])]
    _, cache = token_by_token(model, cache=EncoderDecoderCache(*caches), replies=REPLIES[:, :2])
    arguments = {
        "input_ids": REPLIES[:, :3],
        "next_sequence_length": 1,
        "past_key_values": cache,
        "encoder_outputs": (torch.zeros(*SOURCES.shape, model.config.d_model),),
        "attention_mask": MASK,
        "use_cache": True,
    }
    # Versions of transformers differ in the masks that they make for caches of fixed size, which are compiled.
    expected = GenerationMixin.prepare_inputs_for_generation(model, **arguments)
    inputs = model.prepare_inputs_for_generation(**arguments)
    assert inputs.keys() == expected.keys()
    assert torch.equal(inputs.pop("decoder_input_ids"), expected.pop("decoder_input_ids"))
    masks = [name for name in inputs if name.endswith("mask")]
    assert masks and all(torch.equal(inputs.pop(name), expected.pop(name)) for name in masks)
    assert inputs == expected


def test_beams_leave_the_source_where_it_is(make_model):
    model = make_model()
    _, cache = token_by_token(model)
    sources = [(layer.keys, layer.values) for layer in cache.cross_attention_cache.layers]
    before = [layer.keys.clone() for layer in cache.self_attention_cache.layers]
    order = torch.tensor([2, 0, 0])
    assert model._reorder_cache(cache, order) is cache
    for layer, (keys, values) in zip(cache.cross_attention_cache.layers, sources, strict=True):
        assert layer.keys is keys and layer.values is values
    for layer, keys in zip(cache.self_attention_cache.layers, before, strict=True):
        assert torch.equal(layer.keys, keys[order])


def test_a_cache_that_is_gone_leaves_nothing_behind(make_model):
    _, cache = token_by_token(make_model())
    assert cache in chatformer.generation.MEMORY_MASKS
    gc.collect()
    num_kept = len(chatformer.generation.MEMORY_MASKS)
    del cache
    gc.collect()
    assert len(chatformer.generation.MEMORY_MASKS) == num_kept - 1


def test_a_cache_that_was_cut_goes_on_from_there(make_model):
    model = make_model()
    _, cache = token_by_token(model)
    cache.crop(-4)
    found, _ = token_by_token(model, cache=cache, replies=REPLIES[:, 2:])
    torch.testing.assert_close(found, at_once(model)[:, 2:], rtol=1e-5, atol=1e-5)


def test_a_cache_that_was_reset_reads_another_source(make_model):
    model = make_model()
    for mask in (None, torch.ones_like(MASK)):
        _, cache = token_by_token(model, mask)
        cache.reset()
        if cache.get_seq_length():
            pytest.skip("needs a later transformers, which empties a growing cache")
        found, _ = token_by_token(model, mask, cache=cache, sources=SOURCES.flip(0))
        torch.testing.assert_close(found, at_once(model, mask, SOURCES.flip(0)), rtol=1e-5, atol=1e-5)


def test_another_mask_hides_other_tokens(make_model):
    model = make_model()
    _, cache = token_by_token(model, replies=REPLIES[:, :2])
    narrower = MASK.clone()
    narrower[:, 0] = 0
    with torch.no_grad():
        encoded = model.get_encoder()(SOURCES, MASK)
        options = {"encoder_outputs": encoded, "use_cache": True, "attention_mask": narrower}
        found = step(model, REPLIES[:, :3], past_key_values=cache, encoder_outputs=encoded, attention_mask=narrower)
        prefix = model(decoder_input_ids=REPLIES[:, :2], attention_mask=MASK, encoder_outputs=encoded, use_cache=True)
        options["past_key_values"] = prefix.past_key_values
        expected = model(decoder_input_ids=REPLIES[:, 2:3], output_attentions=True, **options).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_copied_cache_goes_on(make_model):
    model = make_model()
    expected = at_once(model)
    _, cache = token_by_token(model, replies=REPLIES[:, :3])
    copied = copy.deepcopy(cache)
    for each in (copied, cache):
        found, _ = token_by_token(model, cache=each, replies=REPLIES[:, 3:])
        torch.testing.assert_close(found, expected[:, 3:], rtol=1e-5, atol=1e-5)
