"""What every architecture promises: one file of tests, run for each of them."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForSeq2SeqLM, TextStreamer

from chatformer import (
    BahdanauConfig,
    BahdanauForConditionalGeneration,
    ChatformerConfig,
    ChatformerForConditionalGeneration,
    EnsembleConfig,
    EnsembleForConditionalGeneration,
)

VOCABULARY, PAD, START = 23, 0, 1
RECURRENT = {"d_model": 16, "d_embedding": 12, "d_attention": 10}
LAYERED = {"d_model": 16, "d_ff": 24, "num_heads": 2, "encoder_layers": 2, "decoder_layers": 2}
TRANSFORMER = ChatformerForConditionalGeneration, ChatformerConfig
ARCHITECTURES = {
    "transformer": (*TRANSFORMER, LAYERED),
    "strided": (*TRANSFORMER, {**LAYERED, "self_attention": "strided", "stride": 2}),
    "fixed": (*TRANSFORMER, {**LAYERED, "self_attention": "fixed", "stride": 3, "summary_size": 1}),
    "ensemble": (EnsembleForConditionalGeneration, EnsembleConfig, {**LAYERED, "encoder_layers": 1, "num_members": 3}),
    "bahdanau": (BahdanauForConditionalGeneration, BahdanauConfig, RECURRENT),
    "seq2seq": (BahdanauForConditionalGeneration, BahdanauConfig, {**RECURRENT, "attention": False}),
}
BEAMS = {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.6, "repetition_penalty": 2.0}


@pytest.fixture(params=ARCHITECTURES)
def architecture(request):
    return request.param


@pytest.fixture
def model(architecture):
    """Return a model of random weights, large enough that its replies depend on source and target."""
    model_class, config_class, fields = ARCHITECTURES[architecture]
    torch.manual_seed(0)
    model = model_class(config_class(vocab_size=VOCABULARY, **fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return model


def random_rows(*lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator) for length in lengths]


def padded(rows, side, width=None):
    """Return the rows as one batch, with its mask. What stands in the padding is a token like any other."""
    ids = torch.full((len(rows), width or max(map(len, rows))), 7)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(rows):
        num_free = ids.shape[1] - len(tokens)
        first = {"left": num_free, "right": 0, "both": num_free // 2}[side]
        ids[row, first : first + len(tokens)], mask[row, first : first + len(tokens)] = tokens, 1
    return ids, mask


def assert_close(found, expected, atol=2e-5):
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("target_side", ["left", "right"])
@pytest.mark.parametrize("source_side", ["left", "right", "both"])
@torch.no_grad()
def test_padding_changes_nothing(model, source_side, target_side):
    sources, targets = random_rows(9, 1, 5), random_rows(4, 7, 1, seed=1)
    source, source_mask = padded(sources, source_side, width=11)
    target, target_mask = padded(targets, target_side)
    found = model(source, source_mask, decoder_input_ids=target, decoder_attention_mask=target_mask).logits
    for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
        alone = model(source[None], decoder_input_ids=target[None]).logits[0]
        assert_close(found[row, target_mask[row].bool()], alone)


@torch.no_grad()
def test_every_token_of_the_source_and_of_the_past_counts_and_none_of_the_future(model):
    (source,), (target,) = random_rows(6), random_rows(8, seed=1)
    # In float64 the smallest weight shows: of sparse attention, there may be no other way.
    logits = model.double()(source[None], decoder_input_ids=target[None]).logits[0]
    for position in range(len(source)):
        other = source.clone()
        other[position] = 3 + (other[position] - 2) % (VOCABULARY - 3)
        changed = model(other[None], decoder_input_ids=target[None]).logits[0]
        assert not torch.isclose(changed, logits, atol=1e-4).all(-1).any()
    for position in range(len(target)):
        other = target.clone()
        other[position] = 3 + (other[position] - 2) % (VOCABULARY - 3)
        changed = model(source[None], decoder_input_ids=other[None]).logits[0]
        assert torch.equal(changed[:position], logits[:position])
        assert (changed[position:] != logits[position:]).any(-1).all()


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_cached_equals_uncached_step_by_step(model, side):
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
        assert cache.get_seq_length() == last
        real = target_mask[:, first:last].bool()
        assert_close(step.logits[real], expected[:, first:last][real])


def replies_of(model, source, mask, **options):
    torch.manual_seed(0)
    return model.generate(
        source, attention_mask=mask, max_new_tokens=10, return_dict_in_generate=True, output_scores=True, **options
    )


@pytest.mark.parametrize(
    "way",
    [{"repetition_penalty": 3.0}, BEAMS, {"do_sample": True, "num_return_sequences": 2}],
    ids=["greedy", "beam search", "sampling"],
)
def test_generate_with_cache_equals_without(model, way):
    source, mask = padded(random_rows(9, 1, 5, 7), "left")
    found, expected = (replies_of(model, source, mask, use_cache=use_cache, **way) for use_cache in (True, False))
    assert torch.equal(found.sequences, expected.sequences)
    # One token again and again would hide mistakes.
    assert len(set(found.sequences.flatten().tolist())) > 3
    if way is BEAMS:
        assert_close(found.sequences_scores, expected.sequences_scores)
        # Beams that swap places show whether the cache follows them.
        assert any(len(set(row) - {-1}) > 1 for row in found.beam_indices.tolist())


@pytest.mark.parametrize("way", [{}, BEAMS], ids=["greedy", "beam search"])
def test_generate_answers_a_batch_as_each_alone(model, way):
    sources = random_rows(9, 1, 5)
    replies = replies_of(model, *padded(sources, "right"), **way).sequences
    for source, reply in zip(sources, replies.chunk(len(sources)), strict=True):
        alone = replies_of(model, source[None], torch.ones_like(source[None]), **way).sequences
        assert torch.equal(reply[:, : alone.shape[1]], alone)


def test_a_streamer_gets_each_token(model):
    class Tokens(TextStreamer):
        def __init__(self):
            self.ids = []

        def put(self, value):
            self.ids += value.flatten().tolist()

        def end(self):
            pass

    streamer, (source,) = Tokens(), random_rows(5)
    (reply,) = model.generate(source[None], max_new_tokens=6, streamer=streamer)
    assert streamer.ids == reply.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_saved_equals_loaded(model, tmp_path, dtype):
    model.to(dtype).save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert type(loaded) is type(model) and loaded.dtype == dtype and not loaded.training
    assert loaded.config.to_dict() == model.config.to_dict() | {"_name_or_path": str(tmp_path)}
    for matrices in zip(
        *map(members_of, (loaded.model.shared, loaded.model.encoder, loaded.model.decoder, loaded.lm_head)), strict=True
    ):
        assert len({getattr(matrix, "embedding", matrix).weight.data_ptr() for matrix in matrices}) == 1
    (source,), (target,) = random_rows(9), random_rows(8, seed=1)
    logits = model(source[None], decoder_input_ids=target[None]).logits
    assert logits.isfinite().all()
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name
    # Not to the bit: where memory begins decides which kernels torch takes.
    assert_close(
        loaded(source[None], decoder_input_ids=target[None]).logits,
        logits,
        atol=2e-5 if dtype == torch.float32 else 0.1,
    )


def members_of(part):
    """The parts of an ensemble's members, or of the only model."""
    return getattr(part, "members", [part])


def gru(x: Tensor, state: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """A GRU's next state, of one row."""
    (r, z, n), (r_h, z_h, n_h) = (
        (weights[f"weight_{name}"] @ vector + weights[f"bias_{name}"]).split(len(state))
        for name, vector in (("ih", x), ("hh", state))
    )
    reset, update = (r + r_h).sigmoid(), (z + z_h).sigmoid()
    return (1 - update) * (n + reset * n_h).tanh() + update * state


def recurrent_logits(weights: dict[str, Tensor], config, source: Tensor, target: Tensor) -> list[Tensor]:
    """The formulas of modeling_bahdanau.py for one row, token by token."""

    def part(prefix: str, suffix: str = "") -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix).removesuffix(suffix): weight
            for name, weight in weights.items()
            if name.startswith(prefix) and name.endswith(suffix)
        }

    embedding, D = weights["model.shared.weight"], config.d_model
    ltr = part("model.encoder.gru.", "_l0")
    rtl = part("model.encoder.gru.", "_l0_reverse")
    zero = embedding.new_zeros(D)
    forward, backward = [zero], [zero]
    for token in source:
        forward.append(gru(embedding[token], forward[-1], ltr))
    for token in source.flip(0):
        backward.append(gru(embedding[token], backward[-1], rtl))
    annotations = [torch.cat(pair) for pair in zip(forward[1:], backward[:0:-1], strict=True)]
    decoder = part("model.decoder.")
    ends = torch.cat([forward[-1], backward[-1]])
    state = (decoder["start.weight"] @ ends + decoder["start.bias"]).tanh()
    logits = []
    for token in target:
        context = []
        if config.attention:
            energies = [
                decoder["score.weight"][0] @ (decoder["query.weight"] @ state + decoder["key.weight"] @ h).tanh()
                for h in annotations
            ]
            alpha = torch.stack(energies).softmax(0)
            context = [sum(share * h for share, h in zip(alpha, annotations, strict=True))]
        state = gru(torch.cat([embedding[token], *context]), state, part("model.decoder.cell."))
        logits.append(embedding @ (decoder["output.weight"] @ torch.cat([state, *context])).tanh())
    return logits


def looks(config, layer: int, length: int, is_causal: bool) -> Tensor:
    """The sets A_i of a layer's self-attention, as a mask: True where i looks at j."""
    mask = torch.zeros(length, length, dtype=torch.bool)
    for i in range(length):
        for j in range(i + 1 if is_causal else length):
            if config.self_attention == "full":
                mask[i, j] = True
            elif config.self_attention == "strided":
                mask[i, j] = (i - j) % config.stride == 0 if layer % 2 else abs(i - j) <= config.stride
            else:
                own, place = i // config.stride == j // config.stride, j % config.stride
                c = config.summary_size
                mask[i, j] = own or (place >= config.stride - c if is_causal else place < c)
    return mask


def attend(
    weights: dict[str, Tensor], prefix: str, num_heads: int, x: Tensor, memory: Tensor, mask: Tensor | None
) -> Tensor:
    """Equation 1 for several heads, of one row."""

    def linear(name: str, of: Tensor) -> Tensor:
        return of @ weights[f"{prefix}.{name}.weight"].T + weights[f"{prefix}.{name}.bias"]

    heads = []
    for query, key, value in zip(
        *(linear(name, of).chunk(num_heads, -1) for name, of in (("query", x), ("key", memory), ("value", memory))),
        strict=True,
    ):
        scores = query @ key.T / math.sqrt(query.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        heads.append(scores.softmax(-1) @ value)
    return linear("output", torch.cat(heads, -1))


def transformer_logits(weights: dict[str, Tensor], config, source: Tensor, target: Tensor) -> Tensor:
    """The paper's formulas for one row."""
    embedding, width = weights["model.shared.weight"], config.d_model

    def norm(prefix: str, x: Tensor) -> Tensor:
        return functional.layer_norm(x, (width,), weights[f"{prefix}.weight"], weights[f"{prefix}.bias"], 1e-5)

    def embedded(ids: Tensor) -> Tensor:
        positions = torch.zeros(len(ids), width, dtype=torch.float64)
        for position in range(len(ids)):
            for i in range(width // 2):
                angle = position / 10000 ** (2 * i / width)
                positions[position, 2 * i], positions[position, 2 * i + 1] = math.sin(angle), math.cos(angle)
        return embedding[ids] * math.sqrt(width) + positions

    def feed_forward(prefix: str, x: Tensor) -> Tensor:
        inner = (x @ weights[f"{prefix}.inner.weight"].T + weights[f"{prefix}.inner.bias"]).relu()
        return inner @ weights[f"{prefix}.output.weight"].T + weights[f"{prefix}.output.bias"]

    memory, x = embedded(source), embedded(target)
    for layer in range(config.encoder_layers):
        name = f"model.encoder.layers.{layer}"
        mask = looks(config, layer, len(memory), is_causal=False)
        attended = attend(weights, f"{name}.attention", config.num_heads, memory, memory, mask)
        memory = norm(f"{name}.attention_norm", memory + attended)
        memory = norm(f"{name}.feed_forward_norm", memory + feed_forward(f"{name}.feed_forward", memory))
    for layer in range(config.decoder_layers):
        name = f"model.decoder.layers.{layer}"
        mask = looks(config, layer, len(x), is_causal=True)
        attended = attend(weights, f"{name}.self_attention", config.num_heads, x, x, mask)
        x = norm(f"{name}.self_attention_norm", x + attended)
        attended = attend(weights, f"{name}.cross_attention", config.num_heads, x, memory, None)
        x = norm(f"{name}.cross_attention_norm", x + attended)
        x = norm(f"{name}.feed_forward_norm", x + feed_forward(f"{name}.feed_forward", x))
    return x @ embedding.T


def ensemble_logits(weights: dict[str, Tensor], config, source: Tensor, target: Tensor) -> Tensor:
    """The mean of the members' logits, for one row."""
    logits = []
    for member in range(config.num_members):
        own = {
            name.replace(f".members.{member}.", "."): weight
            for name, weight in weights.items()
            if f".members.{member}." in name
        }
        logits.append(transformer_logits(own, config, source, target))
    return torch.stack(logits).mean(0)


REFERENCES = {"bahdanau": recurrent_logits, "seq2seq": recurrent_logits, "ensemble": ensemble_logits}


def test_loss_and_gradients_are_those_of_the_formulas(model, architecture):
    sources, targets = random_rows(6, 3), random_rows(4, 5, seed=1)
    source, mask = padded(sources, "right")
    labels, label_mask = padded(targets, "right")
    model(source, mask, labels=labels.masked_fill(label_mask == 0, -100), return_logits=False).loss.backward()

    parameters = dict(model.named_parameters())
    weights = {name: weight.detach().double().requires_grad_() for name, weight in parameters.items()}
    reference = REFERENCES.get(architecture, transformer_logits)
    losses = []
    for source, target in zip(sources, targets, strict=True):
        logits = reference(weights, model.config, source, torch.cat([torch.tensor([START]), target[:-1]]))
        losses += [-row.log_softmax(-1)[label] for row, label in zip(logits, target, strict=True)]
    torch.stack(losses).mean().backward()
    for name, weight in weights.items():
        torch.testing.assert_close(parameters[name].grad.double(), weight.grad, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("architecture", ["bahdanau", "seq2seq"])
def test_a_recurrent_model_refuses_in_words_what_a_state_cannot_do(model):
    (source,) = random_rows(5)
    with pytest.raises(ValueError, match=r"keeps one state.*StaticLayer.*Leave cache_implementation out"):
        model.generate(source[None], max_new_tokens=3, cache_implementation="static")
    for assisted in ({"prompt_lookup_num_tokens": 2}, {"assistant_model": model}):
        with pytest.raises(ValueError, match="assisted generation is not supported with stateful models"):
            model.generate(source[None], max_new_tokens=3, **assisted)
    output = model(source[None], decoder_input_ids=source[None], use_cache=True)
    with pytest.raises(ValueError, match="cannot take tokens back"):
        output.past_key_values.crop(-1)


def test_each_generated_token_shows_where_it_looked(model, architecture):
    source, mask = padded(random_rows(9, 4), "left")
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "output_attentions": True, "return_dict_in_generate": True}
    if architecture == "seq2seq":
        with pytest.raises(ValueError, match="attention=False has no attention to show"):
            model.generate(source, attention_mask=mask, **options)
        return
    shown = model.generate(source, attention_mask=mask, **options)
    assert len(shown.cross_attentions) == 5
    whole = model(source, mask, decoder_input_ids=shown.sequences[:, :-1], output_attentions=True).cross_attentions
    for layer, weights_BHTS in enumerate(whole):
        by_token = torch.cat([token[layer] for token in shown.cross_attentions], 2)
        assert_close(by_token, weights_BHTS)
        assert_close(weights_BHTS.sum(-1), torch.ones(weights_BHTS.shape[:-1]))
        assert (weights_BHTS[1, :, :, :5] == 0).all()


def test_dropout_changes_the_training_alone(model):
    source, labels = random_rows(6)[0][None], random_rows(5, seed=1)[0][None]
    losses = [model.train(training)(source, labels=labels).loss.item() for training in (True, True, False, False)]
    assert losses[0] != losses[1] and losses[2] == losses[3]
