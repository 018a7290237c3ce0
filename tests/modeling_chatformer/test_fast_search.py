"""The searches around the decoder without modules find what transformers' own find, and keep what they keep."""

import pytest
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from chatformer.fast_beam_search import Candidate, Question
from chatformer.fast_decoding import NextToken
from chatformer.fast_products import PACKED_WEIGHTS
from chatformer.generation import ChatformerGenerationMixin

SOURCES = torch.tensor(
    [[5, 9, 8, 7, 12, 1, 1], [6, 4, 1, 1, 1, 1, 1], [1, 1, 10, 11, 12, 13, 3], [4, 1, 1, 1, 1, 1, 1]]
)
MASK = (SOURCES != 1).long()
SEARCHES = {
    "greedy": {},
    "sampling": {"do_sample": True, "num_return_sequences": 3},
    "beams": {"num_beams": 4},
    "several of the beams": {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.4},
    "no length penalty": {"num_beams": 3, "length_penalty": 0.0},
    "early stopping": {"num_beams": 4, "num_return_sequences": 4, "early_stopping": True, "length_penalty": 3.0},
    "patient": {"num_beams": 4, "early_stopping": "never", "length_penalty": 2.0},
    "many beams": {"num_beams": 9, "num_return_sequences": 9},
    "beam sampling": {"num_beams": 3, "num_return_sequences": 3, "do_sample": True, "temperature": 2.0},
    "a penalty": {"repetition_penalty": 1.7},
    "beams with a penalty": {"num_beams": 4, "repetition_penalty": 1.7, "min_new_tokens": 3},
}
ENDS = {"an end": 2, "several ends": [2, 12, 7], "no end": None}


@pytest.fixture
def by_transformers(monkeypatch):
    """Return a function that has transformers' searches and the modules generate."""

    def generate(model, *arguments, **options):
        with monkeypatch.context() as patched:
            patched.setattr(ChatformerGenerationMixin, "_fast_next_token_for", lambda *_: None)
            torch.manual_seed(0)
            return model.generate(*arguments, **options)

    return generate


def by_us(model, *arguments, **options):
    torch.manual_seed(0)
    return model.generate(*arguments, **options)


@pytest.fixture
def kept(monkeypatch):
    """The numbers of questions that have been kept, whenever others left."""
    kept, keep = [], NextToken.keep

    def note(self, questions):
        kept.append(len(questions))
        keep(self, questions)

    monkeypatch.setattr(NextToken, "keep", note)
    return kept


@pytest.mark.parametrize("ends", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("options", SEARCHES.values(), ids=SEARCHES)
def test_replies_are_the_same(copying_model, by_transformers, options, ends):
    for rows in ([0, 1, 2, 3], [2]):
        asked = {"attention_mask": MASK[rows], "max_new_tokens": 12, "eos_token_id": ends, **options}
        found = by_us(copying_model, SOURCES[rows], **asked)
        expected = by_transformers(copying_model, SOURCES[rows], **asked)
        assert torch.equal(found, expected)
        assert not found.is_inference()


@pytest.mark.parametrize("ends", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("options", SEARCHES.values(), ids=SEARCHES)
def test_what_is_returned_with_them_is_the_same(copying_model, by_transformers, options, ends):
    options = {"attention_mask": MASK, "max_new_tokens": 12, "eos_token_id": ends, **options}
    options |= {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    found, expected = by_us(copying_model, SOURCES, **options), by_transformers(copying_model, SOURCES, **options)
    assert type(found) is type(expected) and found.keys() == expected.keys()
    assert torch.equal(found.sequences, expected.sequences)
    for name in ("scores", "logits"):
        torch.testing.assert_close(torch.stack(found[name]), torch.stack(expected[name]), rtol=1e-4, atol=1e-4)
        assert not any(each.is_inference() for each in found[name])
    if "num_beams" in options:
        torch.testing.assert_close(found.sequences_scores, expected.sequences_scores, rtol=1e-4, atol=1e-5)
        assert torch.equal(found.beam_indices, expected.beam_indices)
        assert found.beam_indices.dtype == expected.beam_indices.dtype
    ours, theirs = found.past_key_values, expected.past_key_values
    assert ours.is_updated == theirs.is_updated
    # Which beams of those that cannot go on are the last ones is left to chance.
    for part in ("self_attention_cache", "cross_attention_cache"):
        for layer, wanted in zip(getattr(ours, part).layers, getattr(theirs, part).layers, strict=True):
            for name in ("keys", "values"):
                if "num_beams" not in options or part == "cross_attention_cache":
                    torch.testing.assert_close(getattr(layer, name), getattr(wanted, name), rtol=1e-4, atol=1e-4)
                assert getattr(layer, name).shape == getattr(wanted, name).shape
                assert not getattr(layer, name).is_inference()


def test_without_scores_there_are_none(copying_model, by_transformers):
    options = {"attention_mask": MASK, "return_dict_in_generate": True}
    for num_beams in (1, 2):
        found = by_us(copying_model, SOURCES, num_beams=num_beams, **options)
        expected = by_transformers(copying_model, SOURCES, num_beams=num_beams, **options)
        assert found.keys() == expected.keys()


def test_what_was_generated_can_be_gone_on_with_and_learnt_from(copying_model):
    found = by_us(copying_model, SOURCES, attention_mask=MASK, return_dict_in_generate=True, max_new_tokens=4)
    cache = found.past_key_values
    outputs = copying_model(
        decoder_input_ids=found.sequences[:, -1:],
        encoder_outputs=copying_model.get_encoder()(SOURCES, MASK),
        attention_mask=MASK,
        past_key_values=cache,
    )
    expected = copying_model(SOURCES, MASK, decoder_input_ids=found.sequences).logits[:, -1:]
    torch.testing.assert_close(outputs.logits, expected, rtol=1e-4, atol=1e-4)
    outputs.logits.square().sum().backward()
    copying_model.zero_grad()


TREES = [
    {(1,): [5, 6, 7], (1, 5): [9], (1, 5, 9): [2], (1, 6): [2], (1, 7): [8], (1, 7, 8): [10], (1, 7, 8, 10): [11]},
    {(1,): [5]},
    {(1,): [5, 6], (1, 5): [2, 7], (1, 6): [2, 8, 9], (1, 6, 8): [11, 12], (1, 6, 8, 11): [13]},
]


@pytest.mark.parametrize("tree", TREES, ids=["three ways", "one", "forks"])
@pytest.mark.parametrize(
    "options",
    [
        *({}, {"num_beams": 3, "do_sample": True}, {"num_beams": 3, "length_penalty": -3.0}),
        *({"num_beams": 3, "early_stopping": stops, "num_return_sequences": 2} for stops in (True, False, "never")),
    ],
    ids=["greedy", "beam sampling", "for short ones", "early stopping", "beams", "patient"],
)
def test_few_tokens_that_are_allowed(copying_model, by_transformers, tree, options):
    options = {"prefix_allowed_tokens_fn": lambda _, ids: tree.get(tuple(ids.tolist()), [2]), **options}
    options = {"attention_mask": MASK, "max_new_tokens": 8, **options}
    found, expected = by_us(copying_model, SOURCES, **options), by_transformers(copying_model, SOURCES, **options)
    # Which of the beams that are none follow the real ones is left to chance.
    best = slice(None, None, options.get("num_return_sequences", 1))
    assert torch.equal(found[best], expected[best])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_the_default_precision_does_not_matter(copying_model, monkeypatch, dtype, options):
    # With weights that are packed, where oneDNN is at hand.
    monkeypatch.setattr("chatformer.fast_decoding.LEAST_ONEDNN_WORK", 0)
    monkeypatch.setattr("chatformer.fast_decoding.LEAST_PACKED_ROWS", 1)
    options = {"attention_mask": MASK, "output_scores": True, "return_dict_in_generate": True, **options}
    expected = by_us(copying_model, SOURCES, **options)
    PACKED_WEIGHTS.clear()
    torch.set_default_dtype(dtype)
    try:
        found = by_us(copying_model, SOURCES, **options)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found.sequences, expected.sequences)
    if "num_beams" in options:
        torch.testing.assert_close(found.sequences_scores, expected.sequences_scores)


def test_a_longer_limit_of_a_caller_counts(copying_model, by_transformers):
    more = {"stopping_criteria": StoppingCriteriaList([MaxLengthCriteria(20)]), "eos_token_id": None}
    for options in ({"max_length": 5}, {"max_length": 30}):
        found = by_us(copying_model, SOURCES, attention_mask=MASK, **options, **more)
        assert torch.equal(found, by_transformers(copying_model, SOURCES, attention_mask=MASK, **options, **more))


def test_a_streamer_gets_all_rows(copying_model):
    class Sizes(BaseStreamer):
        def __init__(self):
            self.sizes = []

        def put(self, value):
            self.sizes.append(len(value))

        def end(self):
            self.sizes.append("end")

    streamer = Sizes()
    found = by_us(copying_model, SOURCES, attention_mask=MASK, max_new_tokens=12, streamer=streamer)
    assert streamer.sizes == [len(SOURCES)] * found.shape[1] + ["end"]


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_processors_may_give_other_precisions(copying_model, options):
    options = {"attention_mask": MASK, **options}
    rounded = LogitsProcessorList([lambda ids, scores: scores.bfloat16()])
    found = by_us(copying_model, SOURCES, logits_processor=rounded, **options)
    assert torch.equal(found, by_us(copying_model, SOURCES, **options))


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_a_forced_prefix_is_read_first(copying_model, by_transformers, options):
    options = {
        "decoder_input_ids": torch.tensor([[copying_model.config.decoder_start_token_id, 9, 8]] * 4),
        "attention_mask": MASK,
        **options,
    }
    found = by_us(copying_model, SOURCES, max_new_tokens=8, **options)
    assert torch.equal(found, by_transformers(copying_model, SOURCES, max_new_tokens=8, **options))
    assert (found[:, :3] == options["decoder_input_ids"][:1]).all()


@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 3}, {"repetition_penalty": 1.2}, {"num_beams": 3, "no_repeat_ngram_size": 4}],
    ids=["greedy", "beams", "greedy with a penalty", "beams with a rule"],
)
def test_questions_that_are_answered_leave(copying_model, by_transformers, kept, options):
    options = {"attention_mask": MASK, "max_new_tokens": 12, **options}
    expected = by_transformers(copying_model, SOURCES, **options)
    assert not kept
    assert torch.equal(by_us(copying_model, SOURCES, **options), expected)
    assert kept and kept == sorted(kept, reverse=True) and kept[-1] < len(SOURCES)
    # What they are numbered by stays as it is.
    for more in ({"do_sample": True}, {"encoder_repetition_penalty": 1.1}, {"return_dict_in_generate": True}):
        kept.clear()
        by_us(copying_model, SOURCES, **options, **more)
        assert not kept


@pytest.mark.parametrize("early_stopping", [True, False])
def test_with_early_stopping_a_question_is_answered_by_as_many_as_there_are_beams(early_stopping):
    config = GenerationConfig(num_beams=2, length_penalty=1.0, early_stopping=early_stopping)
    question = Question(0, [None, None])
    likely, likelier = [Candidate(-2.0, 0, 7, True), Candidate(-2.5, 1, 7, True)], Candidate(-1.0, 0, 9, True)
    going = [Candidate(-0.5, 0, 5, False), Candidate(-0.6, 1, 5, False)]
    question.go_on([*likely, *going], 1, 9, config)
    assert question.is_answered(config) == early_stopping
    question.go_on([likelier, *going], 2, 9, config)
    assert [said.token for _, said in question.ended] == ([7, 7] if early_stopping else [9, 7])


class Notes:
    """What it is called with."""

    def __init__(self):
        self.seen = []

    def note(self, input_ids, scores):
        self.seen.append((input_ids.tolist(), scores.detach().clone() if torch.is_tensor(scores) else scores))


class NotingProcessor(Notes, LogitsProcessor):
    def __call__(self, input_ids, scores):
        self.note(input_ids, scores)
        # It may change what it gets.
        scores[:, 9] = -float("inf")
        return scores


class NotingCriteria(Notes, StoppingCriteria):
    """Ends a row after the token 11, and all after ten tokens."""

    def __call__(self, input_ids, scores, **_):
        self.note(input_ids, scores)
        return (input_ids[:, -1] == 11) | (input_ids.shape[1] >= 10)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
@pytest.mark.parametrize("kind", ["processor", "criteria"])
def test_what_a_caller_adds_sees_the_same(copying_model, by_transformers, kind, options):
    notes, replies = [], []
    for generate in (by_us, by_transformers):
        each = NotingProcessor() if kind == "processor" else NotingCriteria()
        more = (
            {"logits_processor": LogitsProcessorList([each])}
            if kind == "processor"
            else {"stopping_criteria": StoppingCriteriaList([each])}
        )
        replies.append(generate(copying_model, SOURCES, attention_mask=MASK, max_new_tokens=12, **options, **more))
        notes.append(each.seen)
    assert torch.equal(*replies)
    assert len(notes[0]) == len(notes[1]) > 3
    for (ids, scores), (expected_ids, expected_scores) in zip(*notes, strict=True):
        assert ids == expected_ids
        if kind == "processor":
            torch.testing.assert_close(scores, expected_scores, rtol=1e-4, atol=1e-4)
