"""What a reply looks like inside: the weights, probabilities and beams are those of the model that replied."""

import numpy as np
import pytest
import torch

from chatformer.chat.chatbot import Chatbot
from chatformer.chat.inside import beam_tree, look_inside
from chatformer.configuration.replies import ReplySettings

QUESTION = [{"role": "user", "content": "따라 해 2 4"}]


@pytest.fixture(scope="module")
def chatbot(trained):
    torch.set_num_threads(1)
    return Chatbot.from_pretrained(str(trained), device="cpu")


@pytest.fixture(scope="module")
def answer(chatbot):
    return chatbot.answer(QUESTION, ReplySettings(repetition_penalty=1.0))


@pytest.fixture(scope="module")
def inside(chatbot, answer):
    return look_inside(chatbot.engine.model, chatbot.tokenizer, answer.source_ids, answer.reply_ids)


def test_an_answer_is_the_reply_with_its_ids(chatbot, answer):
    assert answer.text == chatbot.reply(QUESTION, ReplySettings(repetition_penalty=1.0))
    assert answer.text == chatbot.tokenizer.decode(answer.reply_ids, skip_special_tokens=True)


def test_each_row_of_attention_sums_to_one_and_the_decoder_looks_at_nothing_later(inside):
    sizes = {"source": len(inside.source), "reply": len(inside.reply)}
    shapes = {"cross": ("reply", "source"), "encoder": ("source", "source"), "decoder": ("reply", "reply")}
    for name, (queries, keys) in shapes.items():
        weights = inside.attentions[name].weights_LHQK
        assert weights.shape == (1, 2, sizes[queries], sizes[keys])
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    decoder = inside.attentions["decoder"].weights_LHQK
    assert not np.triu(decoder, 1).any() and np.tril(decoder).any()


def test_the_weights_are_those_of_a_reply_that_is_generated_token_by_token(chatbot, answer, inside):
    generated = chatbot.engine.model.generate(
        torch.tensor([answer.source_ids]),
        generation_config=ReplySettings(repetition_penalty=1.0).search(),
        output_attentions=True,
        output_scores=True,
        return_dict_in_generate=True,
    )
    steps = [step[0][0].numpy() for step in generated.cross_attentions]
    np.testing.assert_allclose(inside.attentions["cross"].weights_LHQK[0], np.concatenate(steps, 1), atol=1e-5)
    for step, scores in zip(inside.steps, generated.scores, strict=True):
        probabilities = scores[0].softmax(-1)
        # A greedy search chooses the likeliest.
        assert step.chosen == step.likeliest[0][0] and step.probability == step.likeliest[0][1]
        assert step.probability == pytest.approx(float(probabilities.max()), abs=1e-5)
        assert len(step.likeliest) == 10


def test_special_tokens_can_be_hidden(inside):
    encoder = inside.attentions["encoder"]
    hidden = encoder.without_special()
    assert [token.is_special for token in encoder.keys] == [False] * (len(encoder.keys) - 1) + [True]
    assert hidden.keys == hidden.queries == encoder.keys[:-1]
    np.testing.assert_array_equal(hidden.weights_LHQK, encoder.weights_LHQK[:, :, :-1, :-1])


def test_the_tree_of_beams_holds_the_replies_of_the_search_with_their_scores(chatbot, answer):
    model, search = chatbot.engine.model, ReplySettings(num_beams=3, length_penalty=1.0).search()
    tree = beam_tree(model, chatbot.tokenizer, answer.source_ids, search)
    found = model.generate(
        torch.tensor([answer.source_ids]),
        generation_config=search,
        num_return_sequences=3,
        output_scores=True,
        return_dict_in_generate=True,
    )
    ends = sorted((beam for beam in tree if beam.rank is not None), key=lambda beam: beam.rank)
    assert [beam.rank for beam in ends] == [1, 2, 3]
    for beam, ids, score in zip(ends, found.sequences.tolist(), found.sequences_scores.tolist(), strict=True):
        path, at = [], beam
        while True:
            path.insert(0, at.token.id)
            if at.parent is None:
                break
            at = tree[at.parent]
        assert path == [id for id in ids[1:] if id != model.config.pad_token_id]
        assert beam.log_probability / len(path) == pytest.approx(score, abs=1e-4)
    # More was tried than was found.
    parents = {beam.parent for beam in tree}
    assert any(beam.rank is None and number not in parents for number, beam in enumerate(tree))
