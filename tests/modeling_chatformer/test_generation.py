"""`generate()` in every mode of the stock models, against a loop that is written out and has no cache."""

import importlib.util
import threading

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.torch_version import TorchVersion
from transformers import (
    CompileConfig,
    DynamicCache,
    EncoderDecoderCache,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
    QuantizedCache,
    StaticCache,
    StoppingCriteria,
    TextIteratorStreamer,
    TextStreamer,
)
from transformers.generation import logits_process as stock
from transformers.modeling_outputs import BaseModelOutput

PAD, START, END = 0, 1, 2
ROWS = [[10, 6, 15, 19, 5, 3, 19, 13, 9], [8], [18, 8, 12, 5, 10]]
NEW_TOKENS = 12
needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="transformers offloads between a GPU and the CPU: needs a GPU"
)


def padded(rows, side="right"):
    """Return the rows as one batch, with its mask. What stands in the padding is a token like any other."""
    ids = torch.full((len(rows), max(map(len, rows))), 7)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(rows):
        place = slice(ids.shape[1] - len(tokens), None) if side == "left" else slice(len(tokens))
        ids[row, place], mask[row, place] = torch.tensor(tokens), 1
    return ids, mask


@pytest.fixture(scope="module")
def greedy(copying_model):
    ids, mask = padded(ROWS)
    return copying_model.generate(ids, attention_mask=mask, max_new_tokens=NEW_TOKENS)


@torch.no_grad()
def by_hand(model, ids, mask, processors=(), sample=False, num_tokens=NEW_TOKENS):
    """Return the replies, and for each token the processed scores: the whole forward pass anew for each token."""
    replies, scores = torch.full((len(ids), 1), START), []
    finished = torch.zeros(len(ids), dtype=torch.bool)
    while replies.shape[1] <= num_tokens and not finished.all():
        logits = model(ids, mask, decoder_input_ids=replies, use_cache=False).logits[:, -1]
        scores.append(LogitsProcessorList(processors)(replies, logits))
        token = torch.multinomial(scores[-1].softmax(-1), 1)[:, 0] if sample else scores[-1].argmax(-1)
        replies = torch.cat([replies, token.where(~finished, PAD)[:, None]], 1)
        finished |= token == END
    return replies, scores


def test_greedy_replies_repeat_the_source(copying_model, greedy):
    for row, reply in zip(ROWS, greedy.tolist(), strict=True):
        assert reply[: len(row) + 2] == [START, *row, END]
    assert torch.equal(greedy, by_hand(copying_model, *padded(ROWS))[0])


@pytest.mark.parametrize(
    ("options", "warper"),
    [
        ({}, None),
        ({"top_k": 3}, stock.TopKLogitsWarper(3)),
        ({"top_p": 0.7}, stock.TopPLogitsWarper(0.7)),
        ({"min_p": 0.1}, stock.MinPLogitsWarper(0.1)),
        ({"typical_p": 0.6}, stock.TypicalLogitsWarper(0.6)),
        ({"epsilon_cutoff": 0.03}, stock.EpsilonLogitsWarper(0.03)),
        ({"eta_cutoff": 0.03}, stock.EtaLogitsWarper(0.03)),
        ({"top_h": 0.4}, stock.TopHLogitsWarper(0.4)),
    ],
    ids=lambda value: next(iter(value), "temperature alone") if isinstance(value, dict) else "",
)
def test_sampling_takes_every_stock_warper(copying_model, options, warper):
    ids, mask = padded(ROWS)
    options = {"temperature": 4.0, "top_k": 0, **options}
    torch.manual_seed(0)
    found = copying_model.generate(
        ids,
        attention_mask=mask,
        do_sample=True,
        max_new_tokens=NEW_TOKENS,
        output_scores=True,
        return_dict_in_generate=True,
        **options,
    )
    torch.manual_seed(0)
    warpers = [stock.TemperatureLogitsWarper(4.0), *([warper] if warper else [])]
    replies, scores = by_hand(copying_model, ids, mask, warpers, sample=True)
    assert torch.equal(found.sequences, replies)
    torch.testing.assert_close(torch.stack(found.scores), torch.stack(scores), rtol=0, atol=1e-4)
    assert torch.stack(scores).isinf().any() == bool(warper), "The warper left everything in."


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "top_k": 0}], ids=["beam search", "beam sampling"])
def test_beams_have_the_scores_of_their_replies(copying_model, greedy, options):
    ids, mask = padded(ROWS)
    replies, penalty = [], 0.6
    for use_cache in (True, False):
        torch.manual_seed(0)
        found = copying_model.generate(
            ids,
            attention_mask=mask,
            num_beams=4,
            num_return_sequences=3,
            length_penalty=penalty,
            max_new_tokens=NEW_TOKENS,
            output_scores=True,
            return_dict_in_generate=True,
            use_cache=use_cache,
            **options,
        )
        replies.append(found.sequences)
    assert torch.equal(*replies)
    assert replies[0].shape[0] == 9 and len({tuple(reply) for reply in replies[0].tolist()}) == 9

    def log_probabilities(replies, rows):
        targets = replies[:, 1:]
        ended = (targets == END).long().cumsum(-1) - (targets == END).long() > 0
        with torch.no_grad():
            logits = copying_model(ids[rows], mask[rows], decoder_input_ids=replies[:, :-1]).logits
        chosen = logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0].masked_fill(ended, 0.0)
        return chosen.sum(-1) / (~ended).sum(-1) ** penalty

    rows = torch.arange(3).repeat_interleave(3)
    torch.testing.assert_close(found.sequences_scores, log_probabilities(replies[0], rows), rtol=0, atol=1e-4)
    if not options:
        assert (found.sequences_scores[::3] >= log_probabilities(greedy, torch.arange(3)) - 1e-4).all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_several_samples_are_those_of_the_source_given_several_times(copying_model, side):
    options = {"do_sample": True, "temperature": 3.0, "max_new_tokens": NEW_TOKENS}
    found = []
    for ids, mask, num_return_sequences in [
        (*padded(ROWS, side), 3),
        (*(part.repeat_interleave(3, 0) for part in padded(ROWS, side)), 1),
        # The side of the padding changes nothing either.
        (*padded(ROWS, "right"), 3),
    ]:
        torch.manual_seed(0)
        found.append(
            copying_model.generate(ids, attention_mask=mask, num_return_sequences=num_return_sequences, **options)
        )
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    assert len({tuple(reply) for reply in found[0].tolist()}) > 3


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_sample_of_a_padded_source_is_that_of_the_source_alone(copying_model, side):
    (ids, mask), found = padded(ROWS, side), []
    for source, source_mask in [(ids[2:], mask[2:]), (torch.tensor(ROWS[2:]), None)]:
        torch.manual_seed(0)
        found.append(
            copying_model.generate(
                source, attention_mask=source_mask, do_sample=True, temperature=3.0, max_new_tokens=NEW_TOKENS
            )
        )
    assert torch.equal(*found)


@pytest.mark.parametrize("row", range(3))
@pytest.mark.parametrize("assistant", ["small and untaught", "itself"])
def test_assisted_decoding_is_greedy_decoding(make_model, copying_model, row, assistant):
    small = {"d_model": 16, "d_ff": 32, "num_heads": 1, "encoder_layers": 1, "decoder_layers": 1}
    model = copying_model if assistant == "itself" else make_model(**small)
    if model is not copying_model:
        model.resize_token_embeddings(20)
    num_runs = []
    hook = copying_model.lm_head.register_forward_hook(lambda *_: num_runs.append(1))
    source = torch.tensor(ROWS[row : row + 1])
    found = copying_model.generate(source, assistant_model=model, max_new_tokens=NEW_TOKENS)
    hook.remove()
    assert found.tolist() == [[START, *ROWS[row], END]]
    if model is not copying_model:
        assert len(num_runs) <= len(ROWS[row]) + 1, "More passes than without an assistant."


@pytest.mark.parametrize("row", range(3))
def test_prompt_lookup_is_greedy_decoding(copying_model, row):
    source = torch.tensor(ROWS[row : row + 1])
    found = copying_model.generate(source, prompt_lookup_num_tokens=3, max_new_tokens=NEW_TOKENS)
    assert found.tolist() == [[START, *ROWS[row], END]]


class OnlyEvenTokens(LogitsProcessor):
    def __call__(self, input_ids, scores):
        scores = scores.clone()
        scores[:, 3::2] = -torch.inf
        return scores


class EnoughTokens(StoppingCriteria):
    def __call__(self, input_ids, scores, **kwargs):
        return torch.full((len(input_ids),), input_ids.shape[1] >= 5)


SOURCE = padded(ROWS)[0]


@pytest.mark.parametrize(
    ("options", "processor"),
    [
        ({"logits_processor": LogitsProcessorList([OnlyEvenTokens()])}, OnlyEvenTokens()),
        ({"bad_words_ids": [[19], [5, 10]]}, stock.NoBadWordsLogitsProcessor([[19], [5, 10]], eos_token_id=END)),
        ({"suppress_tokens": [8, 10]}, stock.SuppressTokensLogitsProcessor([8, 10])),
        ({"begin_suppress_tokens": [8, 10]}, stock.SuppressTokensAtBeginLogitsProcessor([8, 10], 1)),
        ({"forced_bos_token_id": 17}, stock.ForcedBOSTokenLogitsProcessor(17)),
        ({"forced_eos_token_id": END, "max_new_tokens": 4}, stock.ForcedEOSTokenLogitsProcessor(5, END)),
        ({"min_new_tokens": 9}, stock.MinNewTokensLengthLogitsProcessor(1, 9, END)),
        ({"repetition_penalty": 5.0}, stock.RepetitionPenaltyLogitsProcessor(5.0)),
        ({"no_repeat_ngram_size": 1}, stock.NoRepeatNGramLogitsProcessor(1)),
        ({"encoder_no_repeat_ngram_size": 1}, stock.EncoderNoRepeatNGramLogitsProcessor(1, SOURCE)),
        ({"encoder_repetition_penalty": 0.02}, stock.EncoderRepetitionPenaltyLogitsProcessor(0.02, SOURCE)),
        ({"sequence_bias": [[[19], -30.0]]}, stock.SequenceBiasLogitsProcessor([[[19], -30.0]])),
        (
            {"prefix_allowed_tokens_fn": lambda *_: [4, 5, END]},
            stock.PrefixConstrainedLogitsProcessor(lambda *_: [4, 5, END], 1),
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_logits_processors_are_heeded(copying_model, greedy, options, processor):
    ids, mask = padded(ROWS)
    options = {"max_new_tokens": NEW_TOKENS, **options}
    found = copying_model.generate(ids, attention_mask=mask, **options)
    assert torch.equal(found, by_hand(copying_model, ids, mask, [processor], num_tokens=options["max_new_tokens"])[0])
    assert found.tolist() != greedy.tolist(), "The processor had nothing to do."


def test_stopping_criteria_are_heeded(copying_model, greedy):
    ids, mask = padded(ROWS)
    found = copying_model.generate(
        ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, stopping_criteria=[EnoughTokens()]
    )
    assert torch.equal(found, greedy[:, :5])


@pytest.fixture
def words():
    """Return a tokenizer of the copying model's ids."""
    names = ["<pad>", "<s>", "</s>", *(f"word{number}" for number in range(3, 20))]
    tokenizer = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "temperature": 3.0}], ids=["greedy", "sampling"])
def test_streamers_give_the_reply(copying_model, words, capsys, options):
    source = torch.tensor(ROWS[:1])
    options = {"max_new_tokens": NEW_TOKENS, **options}

    def generate(**streamer):
        torch.manual_seed(0)
        return copying_model.generate(source, **options, **streamer)

    reply = words.decode(generate()[0], skip_special_tokens=True)
    assert reply.startswith("word")
    streamer = TextIteratorStreamer(words, skip_special_tokens=True, timeout=60)
    thread = threading.Thread(target=generate, kwargs={"streamer": streamer})
    thread.start()
    pieces = list(streamer)
    thread.join()
    assert "".join(pieces) == reply and len([piece for piece in pieces if piece]) >= 3
    generate(streamer=TextStreamer(words, skip_special_tokens=True))
    assert capsys.readouterr().out == reply + "\n"


@pytest.mark.parametrize("use_cache", [True, False], ids=["the fast decoder", "the modules"])
def test_a_reply_ends_with_a_stop_string(copying_model, use_cache):
    letters = Tokenizer(models.WordLevel({chr(ord("a") + number): number for number in range(20)}, unk_token="a"))
    letters.pre_tokenizer, letters.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters)
    # The model repeats its source.
    source = torch.tensor([[5, 9, 7, 8]])
    options = {"stop_strings": ["jh"], "tokenizer": tokenizer, "use_cache": use_cache}
    assert copying_model.generate(source, **options)[0, 1:].tolist() == [5, 9, 7]


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beam search"])
def test_the_source_may_come_as_vectors_or_encoded(copying_model, options):
    ids, mask = padded(ROWS, "left")
    options = {"attention_mask": mask, "max_new_tokens": NEW_TOKENS, **options}
    expected = copying_model.generate(ids, **options)
    with torch.no_grad():
        vectors = copying_model.get_encoder()(ids, mask).last_hidden_state
        embeds = copying_model.get_input_embeddings()(ids)
    assert torch.equal(copying_model.generate(inputs_embeds=embeds, **options), expected)
    # Made anew for each call: beam search writes into what it is given.
    for source in ({}, {"input_ids": ids}):
        # transformers repeats a tuple for no beams.
        for encoder_outputs in (BaseModelOutput(vectors), *([] if "num_beams" in options else [(vectors,)])):
            assert torch.equal(copying_model.generate(**source, encoder_outputs=encoder_outputs, **options), expected)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"prompt_lookup_num_tokens": 2}], ids=repr)
def test_a_forced_prefix_is_continued(copying_model, options):
    source = torch.tensor(ROWS[:1])
    for prefix in ([START, 10, 6], [START, 10], [10, 6]):
        found = copying_model.generate(
            source, decoder_input_ids=torch.tensor([prefix]), max_new_tokens=NEW_TOKENS, **options
        )
        # The start token is put before what lacks it.
        assert found.tolist() == [[START, *ROWS[0], END]]


def quantized(backend, **options):
    def make(config):
        if backend != "fp8" and importlib.util.find_spec({"hqq": "hqq", "quanto": "optimum.quanto"}[backend]) is None:
            pytest.skip(f"needs the package of {backend}")
        if backend == "fp8" and not hasattr(transformers.cache_utils, "Fp8QuantizedLayer"):
            pytest.skip("needs a later transformers, which quantizes to fp8")
        target_cache = QuantizedCache(backend, config, **options)
        return EncoderDecoderCache(target_cache, DynamicCache(config=config))

    return make


GROUPS = {"q_group_size": 16, "residual_length": 2}


@pytest.mark.parametrize(
    "cache",
    [
        "dynamic",
        "static",
        pytest.param("offloaded", marks=needs_cuda),
        pytest.param("offloaded_static", marks=needs_cuda),
        lambda config: EncoderDecoderCache(DynamicCache(), DynamicCache()),
        lambda config: EncoderDecoderCache(
            StaticCache(config=config, max_cache_len=20), StaticCache(config=config, max_cache_len=9)
        ),
        quantized("fp8"),
        quantized("hqq", nbits=4, axis_key=1, axis_value=1, **GROUPS),
        # It compiles its kernels when it is first used.
        pytest.param(quantized("quanto", nbits=4, **GROUPS), marks=pytest.mark.slow),
    ],
    ids=["dynamic", "static", "offloaded", "offloaded static", "dynamic made", "static made", "fp8", "hqq", "quanto"],
)
def test_every_cache_gives_the_same_replies(copying_model, greedy, cache):
    model = copying_model
    device = "cuda" if isinstance(cache, str) and cache.startswith("offloaded") else "cpu"
    ids, mask = (part.to(device) for part in padded(ROWS))
    model.to(device)
    try:
        if isinstance(cache, str):
            options = {"cache_implementation": cache, "return_dict_in_generate": True}
        else:
            options = {"past_key_values": cache(model.config), "return_dict_in_generate": True}
        found = model.generate(ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, **options)
    finally:
        model.to("cpu")
    assert torch.equal(found.sequences.cpu(), greedy)
    target_cache = found.past_key_values.self_attention_cache
    assert target_cache.get_seq_length() == greedy.shape[1] - 1
    if isinstance(target_cache, QuantizedCache):
        assert all(layer._quantized_keys is not None for layer in target_cache.layers)


@pytest.mark.parametrize(
    "fields", [{}, pytest.param({"max_position_embeddings": 4}, marks=pytest.mark.slow)], ids=["usual", "beyond"]
)
def test_decoding_with_a_static_cache_is_compiled_once_for_all_lengths(make_model, fields):
    torch._dynamo.reset()
    model = make_model(encoder_layers=1, decoder_layers=1, **fields)
    graphs, runs, sizes_of_the_table = [], [], set()

    def counting(graph, inputs):
        graphs.append(graph)
        return lambda *arguments: runs.append(1) or graph(*arguments)

    compile_config = CompileConfig(fullgraph=True, dynamic=True, backend=counting, mode=None)
    # Otherwise transformers compiles only on a GPU.
    compile_config._compile_all_devices = True
    for rows, num_tokens in [(ROWS, 10), (ROWS, 25), (ROWS[2:] * 2, 15)]:
        ids, mask = padded(rows)
        options = {"attention_mask": mask, "max_new_tokens": num_tokens, "min_new_tokens": num_tokens}
        runs.clear()
        found = model.generate(ids, cache_implementation="static", compile_config=compile_config, **options)
        # The first token comes out of the prefix, which is not compiled.
        assert len(runs) == num_tokens - 1
        sizes_of_the_table.add(len(model.model.decoder.positions.table))
        assert torch.equal(found, model.generate(ids, **options))
    # Extending the table makes a new graph: each time it at least doubles.
    assert len(sizes_of_the_table) == (2 if fields else 1)
    # torch 2.9 compiles for each cache.
    assert len(graphs) == (len(sizes_of_the_table) if TorchVersion(torch.__version__) >= "2.10" else 3)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_what_generation_returns_is_what_a_forward_pass_gives(make_model, attention):
    model = make_model(attention)
    ids, mask = padded(ROWS, "left")
    num_tokens, num_heads = 6, 4
    options = {"attention_mask": mask, "max_new_tokens": num_tokens, "min_new_tokens": num_tokens}
    shown = {"output_attentions": True, "output_hidden_states": True}
    found = model.generate(
        ids, **options, **shown, output_scores=True, output_logits=True, return_dict_in_generate=True
    )
    assert torch.equal(found.sequences, model.generate(ids, **options))
    with torch.no_grad():
        expected = model(ids, mask, decoder_input_ids=found.sequences[:, :-1], **shown)

    def assert_close(found, expected):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)

    logits = expected.logits.clone()
    assert_close(torch.stack(found.logits, 1), logits)
    logits[..., END] = -torch.inf
    assert_close(torch.stack(found.scores, 1), logits)
    for name in ("encoder_attentions", "encoder_hidden_states"):
        assert len(found[name]) == len(expected[name])
        for each, other in zip(found[name], expected[name], strict=True):
            assert_close(each, other)
    assert [len(found[name]) for name in ("decoder_attentions", "cross_attentions", "decoder_hidden_states")] == [6] * 3
    for step in range(num_tokens):
        for layer in range(2):
            weights = found.decoder_attentions[step][layer]
            assert weights.shape == (3, num_heads, 1, step + 1)
            assert_close(weights[:, :, 0], expected.decoder_attentions[layer][:, :, step, : step + 1])
            weights = found.cross_attentions[step][layer]
            assert weights.shape == (3, num_heads, 1, 9)
            assert_close(weights[:, :, 0], expected.cross_attentions[layer][:, :, step])
        for layer in range(3):
            vectors = found.decoder_hidden_states[step][layer]
            assert vectors.shape == (3, 1, 64)
            assert_close(vectors[:, 0], expected.decoder_hidden_states[layer][:, step])


@torch.no_grad()
def test_a_tuple_has_what_the_dictionary_has(make_model):
    model = make_model("eager")
    ids, mask = padded(ROWS)
    for part, inputs in [
        (model, {"decoder_input_ids": ids, "labels": ids}),
        (model.model, {"decoder_input_ids": ids}),
        (model.get_encoder(), {}),
    ]:
        for shown in (False, True):
            options = {"output_attentions": shown, "output_hidden_states": shown} | inputs
            as_dictionary = part(ids, mask, return_dict=True, **options)
            as_tuple = part(ids, mask, return_dict=False, **options)
            assert type(as_tuple) is tuple
            expected = as_dictionary.to_tuple()
            assert len(as_tuple) == len(expected)
            for each, other in zip(as_tuple, expected, strict=True):
                if isinstance(each, EncoderDecoderCache):
                    assert each.get_seq_length() == other.get_seq_length() == ids.shape[1]
                else:
                    torch.testing.assert_close(each, other, rtol=0, atol=0)
    model.config.return_dict = False
    assert type(model(ids, mask, decoder_input_ids=ids)) is tuple
    assert model.generate(ids, attention_mask=mask, max_new_tokens=3).shape == (3, 4)


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], ROWS[1:2]], ids=["batch", "one", "one token"])
@pytest.mark.parametrize(
    "fields",
    [
        {"d_model": 48, "num_heads": 3},
        {"d_model": 50, "num_heads": 5},
        {"encoder_layers": 1, "decoder_layers": 1},
        {"encoder_layers": 1, "decoder_layers": 4},
        {"max_position_embeddings": 1},
    ],
    ids=["three heads", "five heads", "one layer", "unequal depths", "beyond the tabulated positions"],
)
def test_every_shape_generates_alike_with_any_cache(make_model, fields, rows):
    model = make_model(**fields)
    ids, mask = padded(rows)
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": True, "top_k": 0}
    torch.manual_seed(0)
    expected, _ = by_hand(model, ids, mask, sample=True)
    assert len(set(expected.flatten().tolist())) > 5
    for cache in ("dynamic", "static"):
        torch.manual_seed(0)
        found = model.generate(ids, attention_mask=mask, cache_implementation=cache, **options)
        assert torch.equal(found, expected)
