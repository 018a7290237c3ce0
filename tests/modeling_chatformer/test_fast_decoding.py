"""The decoder without modules gives what the modules give, and is not used for what it does not know."""

import copy
import gc
from weakref import WeakKeyDictionary

import pytest
import torch
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache, GenerationMixin, StaticCache
from transformers.cache_utils import DynamicLayer

import chatformer.fast_decoding
import chatformer.generation
from chatformer import ChatformerModel
from chatformer.fast_decoding import NextToken

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


USED = WeakKeyDictionary()


@pytest.fixture(autouse=True)
def note_steps(monkeypatch):
    """Note each cache that the decoder without modules extends."""
    extend = NextToken.__call__

    def call(self, input_ids, cache):
        USED[cache] = self
        return extend(self, input_ids, cache)

    monkeypatch.setattr(NextToken, "__call__", call)


def steps_of(cache):
    """Return the step that the cache was extended by, None where the modules did it."""
    return USED.get(cache)


@pytest.mark.parametrize("least_work", [0, 2**40], ids=["oneDNN", "torch"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"encoder_layers": 1, "decoder_layers": 3, "activation": "gelu"},
        {"d_model": 50, "num_heads": 5, "output_bias": True},
        {"max_position_embeddings": 1},
        {"self_attention": "strided", "stride": 2},
        {"self_attention": "fixed", "stride": 3},
    ],
    ids=[
        *("usual", "gelu, unequal depths", "output bias, odd width", "beyond the tabulated positions"),
        *("strided", "fixed"),
    ],
)
def test_it_gives_what_the_modules_give(make_model, monkeypatch, fields, attention, least_work):
    monkeypatch.setattr(chatformer.fast_decoding, "LEAST_ONEDNN_WORK", least_work)
    model = make_model(attention, **fields)
    for mask in (MASK, torch.ones_like(MASK), None):
        found, cache = token_by_token(model, mask)
        assert steps_of(cache) is not None
        assert cache.get_seq_length() == REPLIES.shape[1]
        torch.testing.assert_close(found, at_once(model, mask), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, at_once(model), atol=1e-2)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.bfloat16, 0.1)], ids=str)
def test_it_keeps_the_precision(make_model, dtype, tolerance):
    model = make_model().to(dtype)
    found, cache = token_by_token(model)
    assert steps_of(cache) is not None and found.dtype == dtype
    torch.testing.assert_close(found, at_once(model), rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 4}, {"num_beams": 3, "num_return_sequences": 2}, {"do_sample": True, "num_return_sequences": 3}],
    ids=str,
)
def test_generation_is_the_same(copying_model, monkeypatch, options):
    sources = torch.tensor([[5, 9, 8, 7, 12, 1, 1], [6, 4, 1, 1, 1, 1, 1], [1, 1, 10, 11, 12, 13, 3]])
    options = {"attention_mask": (sources != 1).long(), "max_new_tokens": 9, **options}
    torch.manual_seed(0)
    found = copying_model.generate(sources, **options, return_dict_in_generate=True)
    assert steps_of(found.past_key_values) is not None
    monkeypatch.setattr("chatformer.generation.is_plain", lambda *_: False)
    torch.manual_seed(0)
    expected = copying_model.generate(sources, **options, return_dict_in_generate=True)
    assert steps_of(expected.past_key_values) is None
    assert torch.equal(found.sequences, expected.sequences)


class OtherLayer(DynamicLayer):
    pass


def test_other_caches_are_the_modules(make_model):
    model = make_model()
    offloaded = new_cache(model)
    offloaded.cross_attention_cache.offloading = True
    other = new_cache(model)
    other.self_attention_cache.layers = [OtherLayer() for _ in other.self_attention_cache.layers]
    for cache in (offloaded, other):
        assert chatformer.fast_decoding.is_plain(model, model.model.decoder, model.lm_head, new_cache(model))
        assert not chatformer.fast_decoding.is_plain(model, model.model.decoder, model.lm_head, cache)


def test_where_the_modules_run_their_inputs_are_the_stock_ones(make_model):
    model = make_model()
    caches = [StaticCache(config=model.config, max_cache_len=length) for length in (8, SOURCES.shape[1])]
    _, cache = token_by_token(model, cache=EncoderDecoderCache(*caches), replies=REPLIES[:, :2])
    assert steps_of(cache) is None
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


class OtherLinear(nn.Linear):
    def forward(self, x):
        return super().forward(x) + 1


class OtherModel(ChatformerModel):
    pass


def with_hook(model):
    model.model.decoder.layers[1].cross_attention.register_forward_hook(lambda _module, _inputs, output: output)


def with_hook_before(model):
    model.model.decoder.register_forward_pre_hook(lambda _module, _inputs: None)


def with_other_forward(model):
    norm = model.model.decoder.layers[0].feed_forward_norm
    plain = norm.forward
    norm.forward = lambda x: 2 * plain(x)


def with_other_layer(model):
    model.model.decoder.layers[0].self_attention.query.__class__ = OtherLinear


def with_other_output(model):
    model.lm_head.__class__ = OtherLinear


def with_other_model(model):
    model.model.__class__ = OtherModel


def with_a_sublayer_in_training(model):
    model.model.decoder.layers[0].dropout.p = 0.0
    model.model.decoder.layers[0].dropout.train()


def with_hidden_states(model):
    model.config.output_hidden_states = True


def with_its_own_forward_wrapped(model):
    plain = model.forward
    model.forward = lambda *arguments, **inputs: plain(*arguments, **inputs)


def with_its_own_forward_compiled(model):
    model.compile(backend="eager")


@pytest.mark.parametrize(
    "change",
    [
        *(with_hook, with_hook_before, with_other_forward, with_other_layer, with_other_output, with_other_model),
        *(with_a_sublayer_in_training, with_hidden_states),
        *(with_its_own_forward_wrapped, with_its_own_forward_compiled),
    ],
)
def test_whatever_is_not_plain_runs_itself(make_model, change):
    model = make_model()
    plain, cache = token_by_token(model)
    assert steps_of(cache) is not None
    change(model)
    found, cache = token_by_token(model)
    assert steps_of(cache) is None
    torch.testing.assert_close(found, at_once(model), rtol=1e-5, atol=1e-5)
    if change in (with_other_forward, with_other_layer, with_other_output):
        assert not torch.allclose(found, plain, atol=1e-2)


def test_hooks_of_all_modules_are_called(make_model):
    model = make_model()
    called = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: called.append(type(module).__name__))
    try:
        token_by_token(model)
    finally:
        handle.remove()
    assert called.count("DecoderLayer") == len(model.model.decoder.layers) * REPLIES.shape[1]


@pytest.mark.parametrize(
    "options",
    [
        {"output_attentions": True},
        {"output_hidden_states": True},
        {"decoder_position_ids": torch.zeros(3, 1, dtype=torch.long)},
    ],
    ids=lambda options: next(iter(options)),
)
def test_unusual_calls_are_the_modules(make_model, options):
    _, cache = token_by_token(make_model(), **options)
    assert steps_of(cache) is None


def test_gradients_flow_and_mixed_precision_stays(make_model):
    model = make_model()
    cache = new_cache(model)
    encoded = model.get_encoder()(SOURCES, MASK)
    options = {"attention_mask": MASK, "encoder_outputs": encoded, "past_key_values": cache}
    assert step(model, REPLIES[:, :1], **options).requires_grad
    assert steps_of(cache) is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, cache = token_by_token(model)
    assert steps_of(cache) is None


def test_a_model_in_training_drops_out(make_model):
    model = make_model(dropout=0.5)
    _, cache = token_by_token(model, replies=REPLIES[:, :2])
    model.train()
    found, _ = token_by_token(model, cache=cache, replies=REPLIES[:, 2:])
    again, cache = token_by_token(model)
    assert steps_of(cache) is None
    assert not torch.allclose(found, at_once(model.eval())[:, 2:], atol=1e-2)
    assert not torch.allclose(found, again[:, 2:], atol=1e-2)


def test_a_copied_cache_goes_on_with_the_same_weights(make_model):
    model = make_model()
    expected = at_once(model)
    _, cache = token_by_token(model, replies=REPLIES[:, :3])
    copied = copy.deepcopy(cache)
    assert steps_of(cache) is not None and steps_of(copied) is None
    for each in (copied, cache):
        found, _ = token_by_token(model, cache=each, replies=REPLIES[:, 3:])
        torch.testing.assert_close(found, expected[:, 3:], rtol=1e-5, atol=1e-5)
        assert steps_of(each) is not None


def test_a_cache_that_is_gone_leaves_nothing_behind(make_model):
    _, cache = token_by_token(make_model())
    assert cache in chatformer.generation.SOURCES
    gc.collect()
    num_kept = len(chatformer.generation.SOURCES)
    del cache
    gc.collect()
    assert len(chatformer.generation.SOURCES) == num_kept - 1


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


def test_what_is_generated_may_be_learnt_from(make_model):
    model = make_model()
    logits, cache = token_by_token(model, replies=REPLIES[:, :3])
    assert steps_of(cache) is not None
    layers = [*cache.self_attention_cache.layers, *cache.cross_attention_cache.layers]
    assert not any(tensor.is_inference() for layer in layers for tensor in (layer.keys, layer.values, logits))
    encoded = model.get_encoder()(SOURCES, MASK)
    # Neither the keys and values so far nor the logits are left unfit for gradients.
    next_logits = model(
        decoder_input_ids=REPLIES[:, 3:4], encoder_outputs=encoded, attention_mask=MASK, past_key_values=cache
    ).logits
    (next_logits - logits[:, -1:]).square().sum().backward()
    assert model.model.decoder.layers[0].self_attention.query.weight.grad.abs().sum() > 0
