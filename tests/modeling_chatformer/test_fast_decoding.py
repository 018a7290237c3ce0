"""The decoder without modules gives what the modules give, and is not used for what it does not know."""

import inspect

import pytest
import torch
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer

import chatformer.fast_decoding
import chatformer.fast_products
from chatformer import ChatformerForConditionalGeneration, ChatformerModel
from chatformer.generation import OVERRIDABLE, is_new_and_dynamic, layer_mask

SOURCES = torch.tensor([[5, 9, 8, 7, 2, 1, 1], [6, 2, 1, 1, 1, 1, 1], [1, 1, 30, 31, 32, 33, 2]])
MASK = (SOURCES != 1).long()
REPLIES = torch.tensor([[0, 11, 12, 13, 14, 15], [0, 21, 22, 23, 24, 25], [0, 31, 5, 33, 2, 35]])


def new_cache(model):
    return EncoderDecoderCache(DynamicCache(config=model.config), DynamicCache(config=model.config))


def decoder_for(model, mask=MASK, sources=SOURCES, num_beams=1):
    """Return the decoder without modules for some sources."""
    with torch.no_grad():
        memory = model.get_encoder()(sources, mask)[0]
    return model.fast_next_token(memory, layer_mask(model, memory, mask), num_beams)


def token_by_token(model, mask=MASK, sources=SOURCES, replies=REPLIES):
    """Return the logits after each token of the replies."""
    next_token = decoder_for(model, mask, sources)
    return torch.stack([next_token(ids) for ids in replies.unbind(1)], 1)


def at_once(model, mask=MASK, sources=SOURCES, replies=REPLIES):
    """Return the same logits, of the modules."""
    with torch.no_grad():
        return model(sources, mask, decoder_input_ids=replies, use_cache=False).logits


@pytest.fixture
def products(monkeypatch, request):
    """Have products be torch's or oneDNN's, whatever their size."""
    least_work, least_rows = {"torch": (2**40, 1), "oneDNN": (0, 2**40), "packed": (0, 1)}[request.param]
    monkeypatch.setattr(chatformer.fast_decoding, "LEAST_ONEDNN_WORK", least_work)
    monkeypatch.setattr(chatformer.fast_decoding, "LEAST_PACKED_ROWS", least_rows)


@pytest.mark.parametrize("products", ["torch", "oneDNN", "packed"], indirect=True)
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
def test_it_gives_what_the_modules_give(make_model, fields, attention, products):
    model = make_model(attention, **fields)
    for mask in (MASK, torch.ones_like(MASK), None):
        found = token_by_token(model, mask)
        torch.testing.assert_close(found, at_once(model, mask), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, at_once(model), atol=1e-2)
    # The table that has grown can be learnt with.
    assert not model.model.decoder.positions.table.is_inference()


@pytest.mark.parametrize("fields", [{}, {"self_attention": "fixed", "stride": 3}], ids=["full", "fixed"])
@pytest.mark.parametrize("rows", [[0], [0, 1, 2]], ids=["one question", "three"])
def test_beams_see_what_they_have_said_themselves(make_model, rows, fields):
    model, num_beams = make_model(**fields), 3
    sources, mask = SOURCES[rows], MASK[rows]
    next_token = decoder_for(model, mask, sources, num_beams)
    torch.manual_seed(1)
    # The rows of what each beam has said so far.
    said = torch.zeros(len(rows) * num_beams, 0, dtype=torch.long)
    for _ in range(9):
        said = torch.cat([said, torch.randint(3, 101, (len(said), 1))], 1)
        found = next_token(said[:, -1])
        expected = at_once(model, *(x.repeat_interleave(num_beams, 0) for x in (mask, sources)), said)[:, -1]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        parents = torch.randint(num_beams, (len(rows), num_beams)) + torch.arange(len(rows))[:, None] * num_beams
        next_token.follow(parents.flatten())
        said = said[parents.flatten()]
    found, options = new_cache(model), {"decoder_input_ids": said, "use_cache": True}
    next_token.write(found)
    expected = model(*(x.repeat_interleave(num_beams, 0) for x in (sources, mask)), **options).past_key_values
    assert found.is_updated == expected.is_updated
    for part in ("self_attention_cache", "cross_attention_cache"):
        for layer, wanted in zip(getattr(found, part).layers, getattr(expected, part).layers, strict=True):
            torch.testing.assert_close(layer.keys, wanted.keys, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(layer.values, wanted.values, rtol=1e-5, atol=1e-5)


def test_questions_that_are_kept_go_on(make_model, monkeypatch):
    # The pools grow on the way.
    monkeypatch.setattr(chatformer.fast_decoding, "FIRST_CAPACITY", 2)
    model = make_model()
    next_token, left = decoder_for(model), torch.tensor([0, 2])
    for ids in REPLIES[:, :3].unbind(1):
        next_token(ids)
    next_token.keep(left)
    found = torch.stack([next_token(ids) for ids in REPLIES[left, 3:].unbind(1)], 1)
    torch.testing.assert_close(found, at_once(model)[left, 3:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.bfloat16, 0.1)], ids=str)
def test_it_keeps_the_precision(make_model, dtype, tolerance):
    model = make_model().to(dtype)
    found = token_by_token(model)
    assert found.dtype == dtype
    torch.testing.assert_close(found, at_once(model), rtol=0, atol=tolerance)


@pytest.mark.skipif(not chatformer.fast_products.HAS_ONEDNN, reason="needs oneDNN with AVX512")
@pytest.mark.parametrize("products", ["packed"], indirect=True)
@pytest.mark.parametrize(
    "change",
    [
        lambda weight: weight.data.neg_(),
        lambda weight: weight.data.copy_(weight.data[torch.randperm(len(weight))]),
        lambda weight: setattr(weight, "data", weight.data.roll(1, 1)),
        lambda weight: weight.detach().numpy().__setitem__((5, 3), 7.0),
    ],
    ids=["in place", "rows in another order", "other memory", "one element, by numpy"],
)
def test_a_packed_weight_is_renewed_when_the_weight_changes(make_model, products, change):
    model = make_model()
    before = token_by_token(model)
    packed = chatformer.fast_products.PACKED_WEIGHTS[model.lm_head]
    assert torch.equal(token_by_token(model), before)
    assert chatformer.fast_products.PACKED_WEIGHTS[model.lm_head] is packed
    for weight in (model.lm_head.weight, model.model.decoder.layers[0].feed_forward.inner.weight):
        torch.manual_seed(0)
        with torch.no_grad():
            change(weight)
        found = token_by_token(model)
        torch.testing.assert_close(found, at_once(model), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(found, before, atol=1e-3)
        before = found


class OtherLayer(DynamicLayer):
    pass


def test_other_caches_are_the_modules(make_model):
    model = make_model()
    offloaded, other, given, used = (new_cache(model) for _ in range(4))
    offloaded.cross_attention_cache.offloading = True
    other.self_attention_cache.layers = [OtherLayer() for _ in other.self_attention_cache.layers]
    given._is_user_defined = True
    used.self_attention_cache.update(torch.zeros(1, 4, 2, 16), torch.zeros(1, 4, 2, 16), 0)
    assert is_new_and_dynamic(new_cache(model))
    assert not any(map(is_new_and_dynamic, (offloaded, other, given, used, None)))


def replies_of(model, **options):
    return model.generate(SOURCES, attention_mask=MASK, max_new_tokens=5, min_new_tokens=5, **options)


class OtherLinear(nn.Linear):
    def forward(self, x):
        return super().forward(x) + 1


class OtherModel(ChatformerModel):
    pass


class OtherForward(ChatformerForConditionalGeneration):
    def forward(self, *arguments, **inputs):
        outputs = super().forward(*arguments, **inputs)
        outputs.logits = -outputs.logits
        return outputs


class OtherCall(ChatformerForConditionalGeneration):
    def __call__(self, *arguments, **inputs):
        outputs = super().__call__(*arguments, **inputs)
        outputs.logits = -outputs.logits
        return outputs


class OtherInputs(ChatformerForConditionalGeneration):
    def prepare_inputs_for_generation(self, *arguments, **inputs):
        return super().prepare_inputs_for_generation(*arguments, **inputs)


def with_hook(model):
    model.model.decoder.layers[1].cross_attention.register_forward_hook(lambda _module, _inputs, output: output)


def with_hook_before(model):
    model.model.decoder.register_forward_pre_hook(lambda _module, _inputs: None)


def with_its_own_hook(model):
    model.register_forward_hook(lambda _module, _inputs, output: output)


def with_other_forward(model):
    norm = model.model.decoder.layers[0].feed_forward_norm
    plain = norm.forward
    norm.forward = lambda x: 2 * plain(x)


def with_other_layer(model):
    model.model.decoder.layers[0].self_attention.value.__class__ = OtherLinear


def with_other_output(model):
    model.lm_head.__class__ = OtherLinear


def with_other_model(model):
    model.model.__class__ = OtherModel


def of_another_class(model):
    model.__class__ = OtherForward


def with_another_call(model):
    model.__class__ = OtherCall


def with_another_attention(model):
    layer = model.model.decoder.layers[0].cross_attention
    plain = layer.eager_attention
    layer.eager_attention = lambda module, query, *inputs, **options: plain(module, -9 * query, *inputs, **options)


def with_inputs_of_another_class(model):
    model.__class__ = OtherInputs


def with_a_sublayer_in_training(model):
    model.model.decoder.layers[0].dropout.p = 0.0
    model.model.decoder.layers[0].dropout.train()


def with_its_own_forward_wrapped(model):
    plain = model.forward
    model.forward = lambda *arguments, **inputs: plain(*arguments, **inputs)


def with_its_own_inputs(model):
    plain = model.prepare_inputs_for_generation
    model.prepare_inputs_for_generation = lambda *arguments, **inputs: plain(*arguments, **inputs)


def with_its_own_forward_compiled(model):
    model.compile(backend="eager")


@pytest.mark.parametrize(
    "change",
    [
        *(with_hook, with_hook_before, with_its_own_hook, with_other_forward, with_other_layer, with_other_output),
        *(with_other_model, of_another_class, with_inputs_of_another_class, with_a_sublayer_in_training),
        *(with_another_call, with_another_attention),
        *(with_its_own_forward_wrapped, with_its_own_inputs, with_its_own_forward_compiled),
    ],
)
@pytest.mark.parametrize("num_beams", [1, 2])
def test_whatever_is_not_plain_runs_itself(make_model, made, change, num_beams):
    model, options = make_model(), {"num_beams": num_beams, "output_logits": True, "return_dict_in_generate": True}
    model.set_attn_implementation("eager")
    plain = replies_of(model, **options)
    assert made
    made.clear()
    change(model)
    found = replies_of(model, **options)
    assert not made
    has_other_logits = (with_other_forward, with_other_layer, with_other_output, of_another_class)
    is_same = change not in (*has_other_logits, with_another_call, with_another_attention)
    assert torch.allclose(found.logits[0], plain.logits[0], atol=1e-2) == is_same


@pytest.mark.parametrize("method", OVERRIDABLE)
def test_a_class_with_a_way_of_its_own_has_it(make_model, made, method):
    model = make_model()
    usual = getattr(type(model), method)
    is_static = isinstance(inspect.getattr_static(type(model), method), staticmethod)

    def own(*arguments, **options):
        return usual(*arguments, **options)

    model.__class__ = type("Other", (type(model),), {method: staticmethod(own) if is_static else own})
    replies_of(model, num_beams=2)
    assert not made


def test_hooks_of_all_modules_are_called(make_model, made):
    model = make_model()
    called = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: called.append(type(module).__name__))
    try:
        replies_of(model)
    finally:
        handle.remove()
    assert not made and called.count("DecoderLayer") == len(model.model.decoder.layers) * 5


@pytest.mark.parametrize(
    "options",
    [
        {"output_attentions": True, "return_dict_in_generate": True},
        {"output_hidden_states": True, "return_dict_in_generate": True},
        {"use_cache": False},
        {"decoder_attention_mask": torch.ones(3, 1, dtype=torch.long)},
        {"synced_gpus": True},
        {"cache_implementation": "static"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_unusual_calls_are_the_modules(make_model, made, options):
    model = make_model()
    replies_of(model)
    assert made
    made.clear()
    if "synced_gpus" in options:
        # It waits for the other processes of a group, of which there is none.
        with pytest.raises(ValueError, match="process group"):
            replies_of(model, **options)
    else:
        replies_of(model, **options)
    assert not made


def test_a_configuration_that_shows_more_is_the_modules(make_model, made):
    model = make_model()
    model.config.output_hidden_states = True
    replies_of(model)
    assert not made


def test_mixed_precision_and_training_are_the_modules(make_model, made):
    model = make_model(dropout=0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        replies_of(model)
    assert not made
    model.train()
    torch.manual_seed(0)
    found = [replies_of(model, output_scores=True, return_dict_in_generate=True).scores[0] for _ in range(2)]
    assert not made and not torch.allclose(*found, atol=1e-2)
