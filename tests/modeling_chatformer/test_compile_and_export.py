"""The network as one graph, compiled and exported, in bf16, and with other attentions than its own."""

import importlib.util

import pytest
import torch
from torch.export import Dim
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForSeq2SeqLM, CompileConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from chatformer import ChatformerConfig, ChatformerForConditionalGeneration
from chatformer.attention import CrossAttention, MaskedSelfAttention, MultiHeadAttention

SMALL = {"d_model": 32, "d_ff": 48, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0}
INDUCTOR = pytest.param("inductor", marks=pytest.mark.slow)


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()


def batch(num_rows, num_source, num_target, seed=0):
    """Return a source, padded on both sides, its mask, and labels."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(3, 101, (num_rows, num_source), generator=generator)
    labels = torch.randint(3, 101, (num_rows, num_target), generator=generator)
    mask = torch.ones_like(source)
    mask[0, num_source // 2 + 1 :] = mask[-1, : num_source // 3] = 0
    labels[0, num_target // 2 + 1 :] = -100
    return source, mask, labels


def counting(backend, graphs):
    """Return a backend that notes each graph it is given."""

    def compile_graph(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend(backend)(graph, inputs)

    return compile_graph


def step(model, source, mask, labels):
    """Return the loss and the gradients of one step, as an accumulating trainer asks for it."""
    model.zero_grad()
    num_items = (labels != -100).sum() * 2
    loss = model(source, mask, labels=labels, num_items_in_batch=num_items, label_smoothing=0.1).loss
    loss.backward()
    return loss.detach(), [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize(
    ("dynamic", "checkpointing", "backend"),
    [
        (True, True, "aot_eager"),
        pytest.param(True, False, "aot_eager", marks=pytest.mark.slow),
        # Then what differs at the second call is dynamic from there on.
        pytest.param(None, False, "eager", marks=pytest.mark.slow),
        pytest.param(None, False, "inductor", marks=pytest.mark.slow),
        pytest.param(True, True, "inductor", marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing")
def test_training_compiles_whole_and_not_anew_for_each_length(make_model, dynamic, checkpointing, backend):
    model, expected, graphs = make_model(**SMALL).train(), make_model(**SMALL).train(), []
    if checkpointing:
        model.gradient_checkpointing_enable()
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic, backend=counting(backend, graphs))
    num_graphs = []
    for shape in [(4, 9, 7), (3, 12, 8), (5, 10, 13), (6, 30, 20), (2, 100, 90)]:
        inputs = batch(*shape)
        torch.testing.assert_close(step(compiled, *inputs), step(expected, *inputs), rtol=1e-4, atol=1e-5)
        num_graphs.append(len(graphs))
    assert len(set(num_graphs)) == (1 if dynamic else 2)
    assert num_graphs[1] == num_graphs[-1]


def test_lengths_that_are_marked_dynamic_compile_once(make_model):
    model, graphs = make_model(**SMALL), []
    compiled = torch.compile(model, fullgraph=True, backend=counting("eager", graphs))
    for shape in [(4, 9, 7), (4, 12, 8), (4, 30, 20)]:
        source, mask, labels = batch(*shape)
        for tensor in (source, mask, labels):
            torch._dynamo.mark_dynamic(tensor, 1)
        found = compiled(source, mask, labels=labels)
        torch.testing.assert_close(found.loss, model(source, mask, labels=labels).loss)
    assert len(graphs) == 1


def test_compiled_training_goes_beyond_the_tabulated_positions(make_model):
    model, expected = make_model(max_position_embeddings=8, **SMALL).train(), make_model(**SMALL).train()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    inputs = batch(3, 20, 7)
    torch.testing.assert_close(step(compiled, *inputs), step(expected, *inputs), rtol=1e-4, atol=1e-5)
    assert model.model.encoder.positions.table.shape == (40, 32)


@pytest.mark.parametrize("backend", ["eager", INDUCTOR])
def test_a_compiled_forward_decodes_with_a_static_cache(make_model, backend):
    model, graphs = make_model(**SMALL), []
    source, mask, _ = batch(2, 9, 1)
    options = {"attention_mask": mask, "max_new_tokens": 10, "min_new_tokens": 10}
    expected = model.generate(source, **options)
    model.forward = torch.compile(model.forward, fullgraph=True, backend=counting(backend, graphs))
    assert torch.equal(model.generate(source, cache_implementation="static", **options), expected)
    # One for the first token, which fills the cache from the source, and one for all others.
    assert len(graphs) == 2
    model.generate(source, cache_implementation="static", **options)
    assert len(graphs) == 2


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_generate_compiles_by_itself(copying_model, attention):
    compile_config = CompileConfig(fullgraph=True, mode=None)
    compile_config._compile_all_devices = True
    source = torch.tensor([[10, 6, 15, 19, 5], [7, 7, 7, 18, 8]])
    mask = torch.tensor([[1] * 5, [0, 0, 0, 1, 1]])
    copying_model.set_attn_implementation(attention)
    try:
        found = copying_model.generate(
            source,
            attention_mask=mask,
            max_new_tokens=10,
            cache_implementation="static",
            compile_config=compile_config,
        )
    finally:
        copying_model.set_attn_implementation("sdpa")
    assert found.tolist() == [[1, 10, 6, 15, 19, 5, 2], [1, 18, 8, 2, 0, 0, 0]]


INPUTS = ("input_ids", "attention_mask", "decoder_input_ids")


def dimensions(longest):
    rows, source, target = Dim("rows"), Dim("source", max=longest), Dim("target", max=longest)
    return dict(zip(INPUTS, ({0: rows, 1: source}, {0: rows, 1: source}, {0: rows, 1: target}), strict=True))


SHAPES = [(4, 9, 7), (2, 60, 3), (5, 3, 50), (1, 5, 6), (3, 1, 5), (2, 5, 1)]


@pytest.mark.parametrize(
    ("attention", "strict"),
    [
        ("sdpa", False),
        pytest.param("eager", False, marks=pytest.mark.slow),
        pytest.param("sdpa", True, marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_the_exported_model_is_the_model(make_model, tmp_path, attention, strict):
    model = make_model(attention, **SMALL)
    source, mask, labels = batch(4, 9, 7)
    program = torch.export.export(
        model,
        (),
        kwargs=dict(zip(INPUTS, (source, mask, labels.clamp(min=0)), strict=True)) | {"use_cache": False},
        dynamic_shapes=dimensions(1024) | {"use_cache": None},
        strict=strict,
    )
    torch.export.save(program, tmp_path / "model.pt2")
    found = torch.export.load(tmp_path / "model.pt2").module()
    for shape in SHAPES:
        source, mask, labels = batch(*shape)
        inputs = dict(zip(INPUTS, (source, mask, labels.clamp(min=0)), strict=True)) | {"use_cache": False}
        torch.testing.assert_close(found(**inputs).logits, model(**inputs).logits, rtol=0, atol=1e-5)


def exported_encoder(model, longest):
    of_source = dimensions(longest)["input_ids"]
    shapes = {"input_ids": of_source, "attention_mask": of_source}
    return torch.export.export(model.get_encoder(), batch(4, 6, 1)[:2], dynamic_shapes=shapes).module()


@torch.no_grad()
def test_the_exported_encoder_is_the_encoder(make_model):
    model = make_model("eager", **SMALL)
    found = exported_encoder(model, 1024)
    for shape in SHAPES:
        inputs = batch(*shape)[:2]
        vectors = model.get_encoder()(*inputs).last_hidden_state
        torch.testing.assert_close(found(*inputs).last_hidden_state, vectors, rtol=0, atol=1e-5)


@torch.no_grad()
def test_an_export_reaches_as_far_as_the_table_and_the_table_as_far_as_is_asked(make_model, tmp_path):
    model = make_model(max_position_embeddings=8, **SMALL)
    with pytest.raises(torch._dynamo.exc.UserError, match=r"Dim\('source', max=8\)"):
        exported_encoder(model, 100)
    model.save_pretrained(tmp_path)
    longer = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, max_position_embeddings=100)
    inputs = batch(2, 90, 1)[:2]
    vectors = model.get_encoder()(*inputs).last_hidden_state
    torch.testing.assert_close(exported_encoder(longer, 100)(*inputs).last_hidden_state, vectors, rtol=0, atol=1e-5)


def test_training_in_bf16_keeps_up_with_float32():
    shape = {"d_model": 64, "d_ff": 128, "num_heads": 4, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0}
    curves = {}
    for precision in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        model = ChatformerForConditionalGeneration(ChatformerConfig(vocab_size=8, **shape))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.98))
        losses = []
        for _ in range(110):
            tokens = torch.randint(3, 8, (32, 2))
            labels = torch.cat([tokens, torch.full((32, 1), model.config.eos_token_id)], 1)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
                output = model(tokens, labels=labels)
            assert output.logits.dtype == precision
            output.loss.backward()
            assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
            optimizer.step()
            optimizer.zero_grad()
            losses.append(output.loss.detach())
        curves[precision] = torch.stack(losses)
        assert curves[precision].dtype == torch.float32
    assert curves[torch.float32][-10:].mean() < 0.3, "Nothing was learned."
    assert curves[torch.bfloat16][-10:].mean() < 0.3
    # Later the two go their own ways, as two seeds would.
    torch.testing.assert_close(curves[torch.bfloat16][:30], curves[torch.float32][:30], rtol=0, atol=0.1)


@pytest.fixture
def registered():
    """Register an attention and its mask as a user does; return what they were called with."""
    attended, masked = [], []

    def attention(module, *arguments, **options):
        attended.append(type(module))
        return sdpa_attention_forward(module, *arguments, **options)

    def mask(*arguments, **options):
        masked.append(options["mask_function"])
        return sdpa_mask(*arguments, **options)

    AttentionInterface.register("users_own", attention)
    AttentionMaskInterface.register("users_own", mask)
    yield attended, masked
    for interface in (AttentionInterface, AttentionMaskInterface):
        del interface._global_mapping["users_own"]


def test_an_attention_that_a_user_registers_is_used_everywhere(make_model, registered, tmp_path):
    attended, masked = registered
    source, mask, labels = batch(3, 9, 7)
    expected = make_model("eager", dropout=0.0).train()(source, mask, labels=labels)
    model = make_model("users_own", dropout=0.0).train()
    found = model(source, mask, labels=labels)
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-5)
    found.loss.backward()
    assert attended == [MultiHeadAttention] * 3 + [MaskedSelfAttention, CrossAttention] * 2
    # Of the source, of the target, and of what the target may see of the source.
    assert len(masked) == 3
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, attn_implementation="users_own")
    replies = [
        each.generate(source, attention_mask=mask, max_new_tokens=5)
        for each in (loaded, AutoModelForSeq2SeqLM.from_pretrained(tmp_path, attn_implementation="eager"))
    ]
    assert torch.equal(*replies) and len(attended) > 7
    with pytest.raises(ValueError, match=r"output_attentions needs.*'users_own'"):
        loaded(source, mask, labels=labels, output_attentions=True)


@pytest.mark.slow
@torch.no_grad()
def test_compiled_flex_attention_equals_eager(make_model):
    # transformers compiles this attention by itself. Within a compiled model torch 2.13 cannot, on the CPU: it takes
    # the queries for a tensor of four axes, where they are a view of the projection's output.
    source, mask, labels = batch(3, 9, 7)
    expected = make_model("eager")(source, mask, labels=labels).logits
    found = make_model("flex_attention")(source, mask, labels=labels).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.skipif(
    torch.cuda.is_available() and importlib.util.find_spec("flash_attn") is not None,
    reason="flash attention is there",
)
def test_flash_attention_is_refused_as_by_a_stock_model_where_it_is_not(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    with pytest.raises((ImportError, ValueError), match=r"(?i)flash.?attention"):
        AutoModelForSeq2SeqLM.from_pretrained(tmp_path, attn_implementation="flash_attention_2")


@pytest.mark.skipif(
    not torch.cuda.is_available() or importlib.util.find_spec("flash_attn") is None,
    reason="needs a GPU and the package flash-attn",
)
@torch.no_grad()
def test_flash_attention_equals_eager_within_its_precision(make_model):
    source, mask, labels = (part.cuda() for part in batch(3, 9, 7))
    logits = {}
    for attention in ("eager", "flash_attention_2"):
        model = make_model(attention).to("cuda", torch.bfloat16)
        logits[attention] = model(source, mask, labels=labels).logits.float()
    torch.testing.assert_close(logits["flash_attention_2"], logits["eager"], rtol=0, atol=0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("attention", ["eager", "sdpa", "flex_attention"])
@torch.no_grad()
def test_attentions_of_a_gpu_equal_eager_on_the_cpu(make_model, attention):
    source, mask, labels = batch(3, 9, 7)
    expected = make_model("eager")(source, mask, labels=labels).logits
    model = make_model(attention).cuda()
    found = model(source.cuda(), mask.cuda(), labels=labels.cuda()).logits
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-3)
