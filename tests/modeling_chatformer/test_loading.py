"""What is saved comes back the same, by every way of loading that stock models have, and as quietly."""

import subprocess
import sys

import pytest
import safetensors.torch
import torch
from accelerate import init_empty_weights, load_checkpoint_and_dispatch
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer

from chatformer import ChatformerConfig, ChatformerForConditionalGeneration, ChatformerModel
from chatformer.embedding import sinusoids

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# The lengths go beyond the 16 tabulated positions.
SOURCE = torch.randint(3, 90, (2, 30), generator=torch.Generator().manual_seed(0))
TARGET = torch.randint(3, 90, (2, 20), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model(make_model):
    return make_model(max_position_embeddings=16, output_bias=True)


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@torch.no_grad()
def logits_of(model):
    assert not model.training
    logits = model(SOURCE, decoder_input_ids=TARGET).logits
    assert logits.isfinite().all()
    return logits


def assert_tied(model):
    matrices = [model.shared, model.encoder.embedding, model.decoder.embedding]
    assert all(matrix.weight is model.shared.weight for matrix in matrices)
    assert all(len(matrix.weight) == matrix.num_embeddings == model.config.vocab_size for matrix in matrices)


def assert_same(loaded, model):
    assert_tied(loaded.model)
    assert loaded.lm_head.weight is loaded.model.shared.weight
    assert torch.equal(logits_of(loaded), logits_of(model))


@pytest.mark.parametrize("saved_in", DTYPES)
@pytest.mark.parametrize("loaded_in", [None, *DTYPES])
def test_the_auto_classes_load_in_every_precision(model, tmp_path, saved_in, loaded_in):
    model.to(saved_in).save_pretrained(tmp_path)
    options = {} if loaded_in is None else {"dtype": loaded_in}
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, **options)
    dtype = loaded_in or saved_in
    assert type(loaded) is ChatformerForConditionalGeneration
    assert {parameter.dtype for parameter in loaded.parameters()} == {loaded.config.dtype} == {dtype}
    # Rounded once only, whatever the weights went through.
    assert torch.equal(loaded.model.encoder.positions.table, sinusoids(16, 64).to(dtype))
    assert torch.equal(loaded.model.decoder.positions.table, sinusoids(16, 64).to(dtype))
    model = model.to(dtype)
    for stack in (model.model.encoder, model.model.decoder):
        stack.positions.table = sinusoids(16, 64).to(dtype)
    assert_same(loaded, model)

    headless = AutoModel.from_pretrained(tmp_path, **options)
    assert type(headless) is ChatformerModel
    assert_tied(headless)
    vectors = (part(SOURCE, decoder_input_ids=TARGET).last_hidden_state for part in (headless, loaded.model))
    assert torch.equal(*vectors)

    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is ChatformerConfig
    assert config.to_diff_dict() == model.config.to_diff_dict() | {"dtype": str(saved_in).removeprefix("torch.")}


def test_encoder_and_decoder_are_models_of_their_own(model, tmp_path):
    memory = model.get_encoder()(SOURCE).last_hidden_state
    for part, inputs in ((model.get_encoder(), {}), (model.get_decoder(), {"encoder_hidden_states": memory})):
        assert part.get_input_embeddings().weight is model.get_input_embeddings().weight
        folder = tmp_path / type(part).__name__
        part.save_pretrained(folder)
        loaded, report = type(part).from_pretrained(folder, output_loading_info=True)
        assert not any(report.values())
        vectors = (each(TARGET, **inputs).last_hidden_state for each in (loaded.eval(), part))
        assert torch.equal(*vectors)


def test_a_tokenizer_comes_back_with_its_template(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "안녕하세요, good morning 😀"
    messages = [{"role": "user", "content": text}]
    assert loaded(text) == tokenizer(text)
    assert loaded.apply_chat_template(messages) == tokenizer.apply_chat_template(messages)
    assert loaded.decode(loaded(text)["input_ids"], skip_special_tokens=True) == text


def test_shards_make_the_same_model(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 5
    assert_same(AutoModelForSeq2SeqLM.from_pretrained(tmp_path), model)


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}, {"": torch.device("cpu")}], ids=repr)
def test_device_maps_make_the_same_model(model, folder, device_map):
    loaded = AutoModelForSeq2SeqLM.from_pretrained(folder, device_map=device_map)
    assert_same(loaded, model)
    assert torch.equal(*(each.generate(SOURCE, max_new_tokens=8) for each in (loaded, model)))


def test_what_exceeds_the_memory_is_read_from_disk(model, folder, tmp_path):
    loaded = AutoModelForSeq2SeqLM.from_pretrained(
        folder, device_map="auto", max_memory={"cpu": 300_000, "disk": 10**9}, offload_folder=tmp_path / "offloaded"
    )
    assert set(loaded.hf_device_map.values()) == {"cpu", "disk"}
    assert_same(loaded, model)
    assert torch.equal(*(each.generate(SOURCE, max_new_tokens=8) for each in (loaded, model)))


@pytest.mark.parametrize("include_buffers", [False, True])
def test_accelerate_loads_into_a_model_without_memory(model, folder, include_buffers):
    with init_empty_weights(include_buffers=include_buffers):
        loaded = ChatformerForConditionalGeneration(model.config)
    loaded.tie_weights()
    assert_same(load_checkpoint_and_dispatch(loaded.eval(), folder, device_map={"": "cpu"}), model)


def without_memory(config):
    with torch.device("meta"):
        model = ChatformerForConditionalGeneration(config).eval()
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    return model


def with_memory(model):
    model.to_empty(device="cpu")
    # Its content may be anything, and may by chance be right.
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.fill_(torch.nan)
    return model


def test_weights_load_into_a_model_without_memory(model, folder):
    state = model.state_dict()
    without_copies = safetensors.torch.load_file(folder / "model.safetensors")
    assert set(state) - set(without_copies) == set(model.all_tied_weights_keys)
    with_memory(loaded := without_memory(model.config)).load_state_dict(state)
    assert_same(loaded, model)
    found = with_memory(loaded := without_memory(model.config)).load_state_dict(without_copies, strict=False)
    assert set(found.missing_keys) == set(model.all_tied_weights_keys) and not found.unexpected_keys
    assert_same(loaded, model)
    (loaded := without_memory(model.config)).load_state_dict(state, assign=True)
    assert_same(loaded, model)
    (loaded := without_memory(model.config)).load_state_dict(without_copies, strict=False, assign=True)
    assert_same(loaded, model)
    (loaded := AutoModel.from_config(model.config)).load_state_dict(model.model.state_dict())
    assert_tied(loaded)


def test_first_weights_fill_a_model_without_memory(model):
    loaded = with_memory(without_memory(model.config))
    loaded.init_weights()
    assert_tied(loaded.model)
    assert torch.equal(loaded.model.encoder.positions.table, sinusoids(16, 64).float())
    logits_of(loaded)


def test_weights_load_into_a_model_that_was_made(model, folder):
    def made():
        return ChatformerForConditionalGeneration(model.config).eval()

    (loaded := made()).load_state_dict(model.state_dict())
    assert_same(loaded, model)
    safetensors.torch.load_model(loaded := made(), folder / "model.safetensors")
    assert_same(loaded, model)
    loaded = ChatformerForConditionalGeneration.from_pretrained(
        None, config=model.config, state_dict=model.state_dict()
    )
    assert_same(loaded, model)


def test_weights_that_are_not_to_be_tied_are_saved_each(make_model, tmp_path):
    model = make_model(tie_word_embeddings=False)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is not loaded.model.shared.weight
    assert torch.equal(logits_of(loaded), logits_of(model))


@pytest.mark.parametrize("output_bias", [False, True])
@pytest.mark.parametrize(
    ("num_rows", "multiple", "expected"), [(120, None, 120), (90, None, 90), (None, 64, 128)], ids=["up", "down", "64s"]
)
def test_resized_embeddings_keep_the_rows_that_remain(make_model, tmp_path, output_bias, num_rows, multiple, expected):
    model = make_model(output_bias=output_bias)
    logits = logits_of(model)
    assert model.resize_token_embeddings(num_rows, pad_to_multiple_of=multiple) is model.get_input_embeddings()
    assert model.config.vocab_size == model.lm_head.out_features == expected
    kept = min(expected, 101)
    torch.testing.assert_close(logits_of(model)[..., :kept], logits[..., :kept], rtol=0, atol=1e-5)
    if output_bias:
        assert model.lm_head.bias.shape == (expected,)
        assert (model.lm_head.bias[kept:] == 0).all()
    model.save_pretrained(tmp_path)
    assert_same(AutoModelForSeq2SeqLM.from_pretrained(tmp_path), model)
    model.train()(SOURCE, labels=TARGET).loss.backward()
    assert model.lm_head.weight.grad.shape == (expected, 64)


def test_embeddings_that_are_set_are_those_of_source_and_target(make_model):
    model, other = make_model(), make_model(num_heads=2)
    model.set_input_embeddings(other.get_input_embeddings())
    assert model.model.encoder.embedding is model.model.decoder.embedding is other.model.shared
    model.tie_weights()
    assert_tied(model.model)
    assert model.lm_head.weight is other.lm_head.weight


def test_headless_into_full_and_back(make_model, tmp_path):
    model = make_model()
    model.model.save_pretrained(tmp_path / "headless")
    assert AutoConfig.from_pretrained(tmp_path / "headless").architectures == ["ChatformerModel"]
    full, found = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "headless", output_loading_info=True)
    assert not any(found.values()), found
    assert_same(full, model)
    full.save_pretrained(tmp_path / "full")
    headless, found = AutoModel.from_pretrained(tmp_path / "full", output_loading_info=True)
    assert not any(found.values()), found
    assert_tied(headless)
    vectors = (part(SOURCE, decoder_input_ids=TARGET).last_hidden_state for part in (headless, model.model))
    assert torch.equal(*vectors)


@pytest.mark.parametrize("auto", [AutoConfig, AutoModel, AutoModelForSeq2SeqLM])
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"dropout": 3.0}, r"dropout is a probability.*3\.0"),
        ({"attention_dropout": "much"}, r"attention_dropout is a probability.*'much'"),
        ({"num_heads": 5}, r"d_model \(64\) must be a multiple of num_heads \(5\)"),
        ({"num_attention_heads": 5}, r"d_model \(64\) must be a multiple of num_heads \(5\)"),
        ({"activation": "tanh"}, "activation must be one of relu"),
        ({"dropot": 0.1}, "no field 'dropot'. Did you mean 'dropout'"),
    ],
)
def test_a_wrong_override_is_refused(folder, auto, overrides, message):
    with pytest.raises(ValueError, match=message):
        auto.from_pretrained(folder, **overrides)


def test_a_right_override_is_taken(folder):
    model = AutoModelForSeq2SeqLM.from_pretrained(
        folder, dropout=0.25, num_attention_heads=2, output_hidden_states=True, attn_implementation="eager"
    )
    assert model.model.encoder.dropout.p == 0.25
    assert model.model.decoder.layers[0].cross_attention.num_heads == 2
    assert model.config.output_hidden_states and model.config._attn_implementation == "eager"
    config, unused = AutoConfig.from_pretrained(folder, dropout=0.25, own=1, return_unused_kwargs=True)
    assert config.dropout == 0.25 and unused == {"own": 1}


@pytest.mark.parametrize("model_class", [ChatformerModel, ChatformerForConditionalGeneration])
def test_a_configuration_that_was_spoiled_afterwards_is_refused(model_class):
    config = ChatformerConfig(d_model=64, num_heads=4)
    config.num_heads = 5
    with pytest.raises(ValueError, match="must be a multiple of num_heads"):
        model_class(config)


# What a stock model of the same size prints at the same operation is allowed, and nothing else.
OPERATIONS = """
import sys, warnings
warnings.simplefilter("always")
def announce(operation):
    print("-----", operation, file=sys.stderr, flush=True)

announce("import and make")
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, MarianConfig
from transformers.utils import logging
logging.disable_progress_bar()
name, folder = sys.argv[1:]
shape = {"vocab_size": 101, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "max_position_embeddings": 64}
tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
if name == "chatformer":
    from chatformer import ChatformerConfig
    config = ChatformerConfig(**shape, **tokens, d_ff=96, num_heads=4)
else:
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    widths = {"encoder_ffn_dim": 96, "decoder_ffn_dim": 96}
    config = MarianConfig(**shape, **tokens, **heads, **widths, forced_eos_token_id=None)

model = AutoModelForSeq2SeqLM.from_config(config).eval()
ids = torch.randint(3, 101, (2, 9))
mask = torch.ones_like(ids)
mask[1, 5:] = 0
announce("save")
model.save_pretrained(folder)
announce("save in shards")
model.save_pretrained(folder + "/shards", max_shard_size="50KB")
for options in ({}, {"dtype": torch.bfloat16}, {"device_map": "auto"}, {"attn_implementation": "eager"}):
    announce(f"load {options}")
    AutoModelForSeq2SeqLM.from_pretrained(folder, **options)
announce("load the configuration")
AutoConfig.from_pretrained(folder)
announce("load without a head")
headless = AutoModel.from_pretrained(folder)
announce("save without a head")
headless.save_pretrained(folder + "/headless")
announce("load with a new head")
AutoModelForSeq2SeqLM.from_pretrained(folder + "/headless")
for options in (
    {}, {"num_beams": 3}, {"do_sample": True, "top_p": 0.9}, {"cache_implementation": "static"}, {"use_cache": False},
    {"prompt_lookup_num_tokens": 2, "rows": 1}, {"output_attentions": True, "return_dict_in_generate": True},
):
    announce(f"generate {options}")
    rows = slice(options.pop("rows", None))
    model.generate(ids[rows], attention_mask=mask[rows], **{"max_new_tokens": 8, **options})
announce("generate with an assistant")
model.generate(ids[:1], assistant_model=AutoModelForSeq2SeqLM.from_config(config), max_new_tokens=8)
announce("train")
model.train()
model(ids, mask, labels=ids).loss.backward()
announce("train with checkpointing")
model.gradient_checkpointing_enable()
model(ids, mask, labels=ids).loss.backward()
model.gradient_checkpointing_disable()
model.eval()
announce("resize")
model.resize_token_embeddings(110)
announce("resize back")
model.resize_token_embeddings(101)
announce("weights")
model.load_state_dict(model.state_dict())
announce("end")
"""


def printed(name, folder, environment):
    process = subprocess.run(
        [sys.executable, "-c", OPERATIONS, name, str(folder)],
        capture_output=True,
        text=True,
        cwd=folder.parent,
        # Some messages list a set.
        env=environment | {"PYTHONHASHSEED": "0"},
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout == ""
    sections = process.stderr.split("----- ")
    assert not sections[0]
    operations = {}
    for section in sections[1:]:
        operation, *lines = section.splitlines()
        operations[operation] = set(lines)
    assert "end" in operations
    return operations


def test_nothing_is_printed_that_a_stock_model_does_not_print(tmp_path, environment):
    ours, stock = (printed(name, tmp_path / name, environment) for name in ("chatformer", "marian"))
    assert ours.keys() == stock.keys()
    assert {operation: lines - stock[operation] for operation, lines in ours.items() if lines - stock[operation]} == {}
