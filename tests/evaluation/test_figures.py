import dataclasses
import math
import socket

import numpy as np
import pytest
import sacrebleu
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from chatformer import ChatformerConfig, ChatformerForConditionalGeneration
from chatformer.chat.engines import TransformersEngine
from chatformer.data.exchanges import encode_exchanges
from chatformer.evaluation.doctor.run_log import share_of_bits
from chatformer.evaluation.figures import distinct, evaluate, figures_of, reply_figures
from chatformer.evaluation.scoring import Outcome

REPLIES = [
    "네, 좋아요.",
    "네, 좋아요.",
    "그럼요 물론이죠 당연히 좋아요",
    "저는 잘 모르겠어요.",
    "hello there, my friend!",
]
REFERENCES = [
    "네, 좋아요.",
    "아니요.",
    "그럼요 물론이죠 당연히 안 좋아요",
    "잘 모르겠네요.",
    "hello there, my old friend!",
]


@pytest.mark.parametrize("tokenize", ["13a", "char", "intl", "none"])
def test_bleu_and_chrf_are_those_of_sacrebleu_called_directly(tokenize):
    figures = reply_figures(REPLIES, REFERENCES, bleu_tokenize=tokenize)
    assert figures.bleu == sacrebleu.corpus_bleu(REPLIES, [REFERENCES], tokenize=tokenize, force=True).score > 0
    assert figures.chrf == sacrebleu.corpus_chrf(REPLIES, [REFERENCES]).score


@pytest.mark.parametrize("tokenize", ["13a", "none"])
def test_tokenized_text_is_warned_of_unless_it_is_said_to_be_tokenized(tokenize, caplog):
    texts = [f"line {number} ." for number in range(200)]
    reply_figures(texts, texts, bleu_tokenize=tokenize)
    assert ("tokenized period" in caplog.text) == (tokenize != "none")


def test_the_signatures_are_sacrebleus():
    from chatformer.evaluation.metrics import corpus_metrics, signatures

    assert signatures(bleu_tokenize="char") == {
        "bleu": f"nrefs:1|case:mixed|eff:no|tok:char|smooth:exp|version:{sacrebleu.__version__}",
        "chrf": f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{sacrebleu.__version__}",
    }
    results = corpus_metrics(REPLIES, REFERENCES, bleu_tokenize="char")
    assert {name: result["signature"] for name, result in results.items()} == signatures(bleu_tokenize="char")


def test_the_metrics_need_no_network(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert reply_figures(REPLIES, REPLIES).chrf == pytest.approx(100)


def test_figures_of_replies_by_hand():
    figures = reply_figures(REPLIES, REFERENCES, training_replies={"네, 좋아요.", "안녕"})
    assert figures.exact_match == 20
    assert figures.distinct_replies == 4
    assert figures.most_frequent_reply == 40
    assert figures.copied_replies == 40
    # 15 words, of which "네," and "좋아요." stand twice; 10 pairs, of which one stands twice.
    assert figures.distinct_1 == pytest.approx(100 * 13 / 15)
    assert figures.distinct_2 == pytest.approx(100 * 9 / 10)
    assert distinct(["a b a c", "b"], 2) == 100
    assert distinct(["한", "말"], 2) is None


def character_tokenizer(characters_at_once):
    """Return a tokenizer of the letters a and b, one or two at once."""
    words = {1: ["a", "b"], 2: ["aa", "ab", "ba", "bb"]}[characters_at_once]
    vocabulary = {token: row for row, token in enumerate(["<pad>", "<start>", "<end>", *words])}
    whole = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    whole.pre_tokenizer = pre_tokenizers.Split(Regex("." * characters_at_once), behavior="isolated")
    whole.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=whole,
        pad_token="<pad>",
        bos_token="<start>",
        eos_token="<end>",
        chat_template="{{ messages[-1]['content'] }}<end>",
    )


@pytest.mark.parametrize("characters_at_once", [1, 2])
def test_bits_per_character_do_not_depend_on_the_tokenizer(characters_at_once):
    letters = character_tokenizer(characters_at_once)
    config = ChatformerConfig(
        vocab_size=len(letters), d_model=8, d_ff=8, num_heads=1, encoder_layers=1, decoder_layers=1, output_bias=True
    )
    model = ChatformerForConditionalGeneration(config).eval()
    # The end has a probability of 1/2 and a letter of 1/4, so that a pair of letters has 1/16; the rest is padding.
    word = 4.0**-characters_at_once
    num_words = 2**characters_at_once
    probabilities = [0.5 - num_words * word + 1e-9, 1e-9, 0.5, *[word] * num_words]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.lm_head.bias.copy_(torch.tensor(probabilities).log())
    messages = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "abba"}]
    encoded = encode_exchanges([{"messages": messages}] * 3, letters, 40, 40)
    assert encoded.target_lengths.tolist() == [4 // characters_at_once + 1] * 3
    figures, _ = evaluate(model, letters, encoded, max_replies=0)
    assert figures.bits_per_character == pytest.approx((4 * 2 + 1) / 4, rel=1e-5)
    assert figures.perplexity == pytest.approx(2 ** (9 / (4 / characters_at_once + 1)), rel=1e-5)
    assert figures.chrf is None and figures.exact_match is None


def test_what_is_known_by_heart_has_figures(tokenizer, conversations):
    exchanges = encode_exchanges(conversations[:4], tokenizer, 40, 40)
    count = len(exchanges)
    none, some = np.zeros(count), np.full(count, 3.0)
    found = figures_of(exchanges, Outcome(none, some, some, exchanges.replies), range(count))
    assert found.loss == found.bits_per_character == 0 and found.perplexity == 1
    assert found.source_gain == found.history_gain > 0
    assert all(math.isfinite(value) for value in dataclasses.astuple(found) if value is not None)
    # The score is the best that there is, and still counts the replies.
    other = dataclasses.replace(found, chrf=found.chrf / 2)
    assert math.isfinite(found.score) and found.score == 2 * other.score > 1e6
    # All that another question leaves, and not more than all.
    assert share_of_bits(found.source_gain, found.bits_per_character) == 1


def test_a_device_without_float64_scores(monkeypatch):
    config = ChatformerConfig(vocab_size=9, d_model=8, d_ff=8, num_heads=1, encoder_layers=1, decoder_layers=1)
    engine = TransformersEngine(ChatformerForConditionalGeneration(config).eval())
    expected = engine.score([[3, 4], [5]], [[6, 2], [7, 8, 2]])
    double, cpu, moved = torch.Tensor.double, torch.Tensor.cpu, []

    def on_cpu(tensor):
        moved.append(cpu(tensor).clone())
        return moved[-1]

    def only_on_cpu(tensor):
        if not any(tensor is other for other in moved):
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )
        return double(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", on_cpu)
    monkeypatch.setattr(torch.Tensor, "double", only_on_cpu)
    assert engine.score([[3, 4], [5]], [[6, 2], [7, 8, 2]]) == expected
