import subprocess
import sys

import pytest
import torch

from chatformer import ChatformerForConditionalGeneration

START, END = 1, 2
SIDES = ["left", "right"]
BEAMS = {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.6}


def random_rows(*lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 20, (length,), generator=generator) for length in lengths]


def padded(rows, side):
    """Return the rows as one batch, with its mask. What stands in the padding is a token like any other."""
    ids = torch.full((len(rows), max(map(len, rows))), 7)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(rows):
        place = slice(ids.shape[1] - len(tokens), None) if side == "left" else slice(len(tokens))
        ids[row, place], mask[row, place] = tokens, 1
    return ids, mask


def assert_same_reply(reply, alone):
    # Beam search fills with the end token where the padding's id is 0.
    assert torch.equal(reply[..., : alone.shape[-1]], alone)
    assert (reply[..., alone.shape[-1] :] <= END).all()


def assert_close(found, expected, atol=1e-5):
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("target_side", SIDES)
@pytest.mark.parametrize("source_side", SIDES)
@torch.no_grad()
def test_padding_changes_nothing(make_model, source_side, target_side, attention):
    model = make_model(attention)
    sources, targets = random_rows(9, 1, 5), random_rows(4, 7, 1, seed=1)
    source, source_mask = padded(sources, source_side)
    target, target_mask = padded(targets, target_side)
    found = model(source, source_mask, decoder_input_ids=target, decoder_attention_mask=target_mask).logits
    for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
        alone = model(source[None], decoder_input_ids=target[None]).logits[0]
        assert_close(found[row, target_mask[row].bool()], alone)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_future_cannot_be_seen(make_model, attention):
    model = make_model(attention)
    (source,), (target,) = random_rows(6), random_rows(8, seed=1)
    changed = target.clone()
    changed[5:] = random_rows(3, seed=2)[0]
    with torch.no_grad():
        logits, logits_of_changed = (
            model(source[None], decoder_input_ids=target[None]).logits[0] for target in (target, changed)
        )
    assert torch.equal(logits[:5], logits_of_changed[:5])
    assert not torch.isclose(logits[5:], logits_of_changed[5:]).any(-1).all()

    embeds = model.model.decoder.embedding(target[None]).detach().requires_grad_()
    model(source[None], decoder_inputs_embeds=embeds).logits[0, 4].logsumexp(-1).backward()
    assert (embeds.grad[0, :5] != 0).any(-1).all()
    assert (embeds.grad[0, 5:] == 0).all()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"encoder_layers": 1, "decoder_layers": 4},
        {"encoder_layers": 1, "decoder_layers": 1},
        {"d_model": 48, "num_heads": 3},
        {"max_position_embeddings": 3},
    ],
    ids=["unequal depths", "deep decoder", "one layer", "three heads", "beyond the tabulated positions"],
)
@torch.no_grad()
def test_cached_equals_uncached_step_by_step(make_model, fields, side, attention):
    model = make_model(attention, **fields)
    source, source_mask = padded(random_rows(9, 1, 5), side)
    # A forced prefix of four tokens, padded on the left, goes into the cache at once.
    target, target_mask = padded(random_rows(12, 10, 9, seed=1), "left")
    expected = model(source, source_mask, decoder_input_ids=target, decoder_attention_mask=target_mask).logits
    encoder_outputs, cache = model.get_encoder()(source, source_mask), None
    for first, last in [(0, 4), *((step, step + 1) for step in range(4, 12))]:
        step = model(
            attention_mask=source_mask,
            encoder_outputs=encoder_outputs,
            decoder_input_ids=target[:, first:last],
            decoder_attention_mask=target_mask[:, :last],
            past_key_values=cache,
            use_cache=True,
        )
        cache = step.past_key_values
        real = target_mask[:, first:last].bool()
        assert_close(step.logits[real], expected[:, first:last][real])


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    "way", [{}, BEAMS, {"do_sample": True, "temperature": 4.0}], ids=["greedy", "beam search", "sampling"]
)
def test_generate_with_cache_equals_without(copying_model, way, side):
    source, mask = padded(random_rows(9, 1, 5, 7), side)
    replies = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        replies.append(
            copying_model.generate(source, attention_mask=mask, max_new_tokens=12, use_cache=use_cache, **way)
        )
    assert torch.equal(*replies)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("way", [{}, BEAMS], ids=["greedy", "beam search"])
def test_generate_answers_a_batch_as_each_alone(copying_model, way, side):
    sources = random_rows(9, 1, 5, 7)
    source, mask = padded(sources, side)
    replies = copying_model.generate(source, attention_mask=mask, max_new_tokens=12, **way)
    for source, reply in zip(sources, replies.chunk(len(sources)), strict=True):
        assert_same_reply(reply, copying_model.generate(source[None], max_new_tokens=12, **way))


@pytest.mark.parametrize("way", [{}, {"num_beams": 3}], ids=["greedy", "beam search"])
def test_static_cache_equals_dynamic_and_padded_prefixes_equal_each_alone(copying_model, way):
    sources = random_rows(9, 1, 5)
    prefixes = [torch.tensor([START, *source[:length]]) for source, length in zip(sources, (3, 1, 0), strict=True)]
    source, mask = padded(sources, "left")
    prefix, prefix_mask = padded(prefixes, "left")
    replies = [
        copying_model.generate(
            source,
            attention_mask=mask,
            decoder_input_ids=prefix,
            decoder_attention_mask=prefix_mask,
            cache_implementation=cache,
            max_new_tokens=12,
            **way,
        )[:, prefix.shape[1] :]
        for cache in ("dynamic", "static")
    ]
    assert torch.equal(*replies)
    for source, prefix, reply in zip(sources, prefixes, replies[0], strict=True):
        alone = copying_model.generate(source[None], decoder_input_ids=prefix[None], max_new_tokens=12, **way)
        assert_same_reply(reply, alone[0, len(prefix) :])


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile", "ignore:_compile flag")
@torch.no_grad()
def test_eager_equals_sdpa_equals_flex(make_model):
    source, source_mask = padded(random_rows(9, 1, 5), "right")
    target, target_mask = padded(random_rows(4, 7, 2, seed=1), "left")
    logits = {}
    # Uncompiled, flex attention computes the same; to compile it here takes half a minute.
    with torch.compiler.set_stance("force_eager"):
        for attention in ("eager", "sdpa", "flex_attention"):
            model = make_model(attention)
            assert model.config._attn_implementation == attention
            output = model(source, source_mask, decoder_input_ids=target, decoder_attention_mask=target_mask)
            logits[attention] = output.logits[target_mask.bool()]
    assert_close(logits["sdpa"], logits["eager"])
    assert_close(logits["flex_attention"], logits["eager"])


@torch.no_grad()
def test_showing_the_weights_changes_nothing(make_model):
    model = make_model("sdpa")
    (source,), (target,) = random_rows(9), random_rows(6, seed=1)
    shown = model(source[None], decoder_input_ids=target[None], output_attentions=True)
    assert_close(shown.logits, model(source[None], decoder_input_ids=target[None]).logits)
    assert (shown.decoder_attentions[0].triu(1) == 0).all()
    for weights in (*shown.encoder_attentions, *shown.decoder_attentions, *shown.cross_attentions):
        assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


def test_weights_cannot_be_shown_where_the_attention_in_use_has_other_masks(make_model):
    model = make_model("flex_attention")
    with pytest.raises(ValueError, match=r"output_attentions.*eager.*sdpa.*flex_attention"):
        model(torch.tensor([[5]]), decoder_input_ids=torch.tensor([[5]]), output_attentions=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_saved_equals_loaded(make_model, tmp_path, dtype):
    model = make_model(max_position_embeddings=16).to(dtype)
    model.save_pretrained(tmp_path)
    loaded = ChatformerForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.dtype == dtype and not loaded.training
    (source,), (target,) = random_rows(30), random_rows(20, seed=1)
    logits = model(source[None], decoder_input_ids=target[None]).logits
    assert logits.isfinite().all()
    assert torch.equal(loaded(source[None], decoder_input_ids=target[None]).logits, logits)


def test_source_target_and_output_share_one_matrix(make_model, tmp_path):
    def assert_tied(model, vocab_size):
        matrices = (model.model.shared, model.model.encoder.embedding, model.model.decoder.embedding, model.lm_head)
        assert {matrix.weight.data_ptr() for matrix in matrices} == {model.model.shared.weight.data_ptr()}
        assert {tuple(matrix.weight.shape) for matrix in matrices} == {(vocab_size, 64)}

    model = make_model()
    assert_tied(model, 101)
    model.save_pretrained(tmp_path)
    loaded = ChatformerForConditionalGeneration.from_pretrained(tmp_path)
    assert_tied(loaded, 101)
    (source,), (target,) = random_rows(9), random_rows(6, seed=1)
    logits = loaded(source[None], decoder_input_ids=target[None]).logits
    loaded.resize_token_embeddings(120)
    assert_tied(loaded, 120)
    resized = loaded(source[None], decoder_input_ids=target[None]).logits
    assert resized.shape[-1] == loaded.config.vocab_size == 120
    assert_close(resized[..., :101], logits)


@pytest.mark.parametrize(
    "imports",
    [
        "import chatformer; from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM",
        "from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM; import chatformer",
        "from chatformer import ChatformerModel; from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM",
        # Bert imports transformers' layers before its auto classes, and so leads here half-way through the layers.
        "import chatformer; from transformers import BertModel, AutoConfig, AutoModel, AutoModelForSeq2SeqLM",
    ],
)
def test_the_auto_classes_know_chatformer_whatever_is_imported_first(make_model, tmp_path, imports):
    make_model().save_pretrained(tmp_path)
    program = f"{imports}\nfor auto in (AutoConfig, AutoModel, AutoModelForSeq2SeqLM):\n"
    program += f"    print(type(auto.from_pretrained({str(tmp_path)!r})).__qualname__)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    names = ["ChatformerConfig", "ChatformerModel", "ChatformerForConditionalGeneration"]
    assert found.stdout.split() == names, found.stderr


def test_importing_chatformer_is_quick():
    program = "import sys, chatformer; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


# transformers 5.23 has a new name for it, which 5.17 does not know.
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing")
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(make_model, use_reentrant):
    model = make_model(dropout=0.1).train()
    source, mask = padded(random_rows(9, 1, 5), "right")
    (labels,) = random_rows(7, seed=1)
    num_runs = []
    model.model.decoder.layers[0].feed_forward.register_forward_hook(lambda *_: num_runs.append(1))
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        model.zero_grad()
        torch.manual_seed(0)
        model(source, mask, labels=labels.expand(3, -1)).loss.backward()
        found.append(gradients(model))
    assert len(num_runs) == 3, "The layer was not computed again for the second gradient: nothing was checkpointed."
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-6)


def test_eight_micro_batches_give_the_gradient_of_one_large_batch(make_model):
    model = make_model()
    lengths = torch.randint(1, 9, (2, 16), generator=torch.Generator().manual_seed(0)).tolist()
    sources, targets = random_rows(*lengths[0]), random_rows(*lengths[1], seed=1)
    num_tokens = torch.tensor(sum(lengths[1]))

    def backward(rows, num_items_in_batch):
        source, mask = padded(sources[rows], "right")
        labels, label_mask = padded(targets[rows], "right")
        labels = labels.masked_fill(label_mask == 0, -100)
        loss = model(source, mask, labels=labels, num_items_in_batch=num_items_in_batch, label_smoothing=0.1).loss
        loss.backward()
        return loss.item()

    loss_of_large = backward(slice(None), None)
    large = gradients(model)
    model.zero_grad()
    losses = [backward(slice(first, first + 2), num_tokens) for first in range(0, 16, 2)]
    assert sum(losses) == pytest.approx(loss_of_large, rel=1e-6)
    torch.testing.assert_close(gradients(model), large, rtol=0, atol=1e-6)


@torch.no_grad()
def test_lengths_beyond_the_tabulated_positions_change_nothing(make_model):
    (source,), (target,) = random_rows(40), random_rows(30, seed=1)
    few, many = make_model(max_position_embeddings=4), make_model(max_position_embeddings=64)
    found, expected = (model(source[None], decoder_input_ids=target[None]).logits for model in (few, many))
    assert torch.equal(found, expected)
