import itertools
import math
import socket
import sys
from collections import Counter

import numpy as np
import pytest
import sacrebleu
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import GenerationConfig, MarianConfig, MarianMTModel, PreTrainedTokenizerFast

from chatformer import ChatformerConfig, ChatformerForConditionalGeneration
from chatformer.chat.engines import TransformersEngine
from chatformer.data.exchanges import encode_exchanges
from chatformer.evaluation.scoring import (
    compare,
    distinct,
    evaluate,
    figures_of,
    length_batches,
    nearest_answers,
    others_of_like_length,
    outcome_of,
    reply_figures,
    sources_with_other_histories,
    turns_of,
)

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
SEARCH = {"do_sample": False, "num_beams": 1, "max_new_tokens": 12}
SHORT_GREEDY = {"max_replies": None, "search": GenerationConfig(**SEARCH)}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def exchanges(conversations, tokenizer):
    return encode_exchanges(conversations[:40], tokenizer, 40, 40)


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    config = ChatformerConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        d_ff=32,
        num_heads=2,
        encoder_layers=1,
        decoder_layers=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.bos_token_id,
    )
    model = ChatformerForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # So that no two replies are alike.
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def outcome(model, tokenizer, exchanges):
    return outcome_of(TransformersEngine(model), tokenizer, exchanges, **SHORT_GREEDY)


@pytest.fixture(scope="module")
def training(conversations):
    """Return questions and answers of which half of the answers are also those of the exchanges."""
    return [(made["messages"][-2]["content"], made["messages"][-1]["content"]) for made in conversations[20:60]]


@pytest.mark.parametrize("tokenize", ["13a", "char", "intl", "none"])
def test_bleu_and_chrf_are_those_of_sacrebleu_called_directly(tokenize):
    figures = reply_figures(REPLIES, REFERENCES, bleu_tokenize=tokenize)
    assert figures.bleu == sacrebleu.corpus_bleu(REPLIES, [REFERENCES], tokenize=tokenize, force=True).score > 0
    assert figures.chrf == sacrebleu.corpus_chrf(REPLIES, [REFERENCES]).score


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


def test_the_loss_is_that_of_each_exchange_alone(model, exchanges, outcome):
    for index in range(len(exchanges)):
        source, target = (
            torch.tensor(ids.tolist())[None] for ids in (exchanges.source(index), exchanges.target(index))
        )
        with torch.no_grad():
            alone = model(source, labels=target).loss.item() * target.shape[1]
        assert outcome.nats[index] == pytest.approx(alone, rel=1e-5)
    figures = figures_of(exchanges, outcome, range(len(exchanges)))
    assert figures.loss == pytest.approx(outcome.nats.sum() / exchanges.target_lengths.sum())
    assert figures.perplexity == pytest.approx(math.exp(figures.loss))
    characters = len("".join(exchanges.replies))
    assert figures.bits_per_character == pytest.approx(outcome.nats.sum() / math.log(2) / characters)


def test_the_replies_are_those_of_generate_one_at_a_time(model, tokenizer, exchanges, outcome):
    alone = [
        tokenizer.decode(
            model.generate(torch.tensor([exchanges.source(index).tolist()]), do_sample=False, max_new_tokens=12)[0],
            skip_special_tokens=True,
        )
        for index in range(len(exchanges))
    ]
    assert outcome.replies == alone
    assert len(set(alone)) > 5


def test_small_batches_change_nothing(model, tokenizer, exchanges, outcome):
    batches = length_batches(exchanges, len(exchanges), 60)
    assert len(batches) > 5 and sorted(itertools.chain(*batches)) == list(range(len(exchanges)))
    small = outcome_of(TransformersEngine(model), tokenizer, exchanges, **SHORT_GREEDY, batch_tokens=60)
    assert small.replies == outcome.replies
    assert small.nats == pytest.approx(outcome.nats, rel=1e-5)
    assert small.nats_without_source == pytest.approx(outcome.nats_without_source, rel=1e-5)


def test_beams_find_likelier_replies(model, tokenizer, exchanges, outcome):
    search = GenerationConfig(**SEARCH | {"num_beams": 4})
    beams = outcome_of(TransformersEngine(model), tokenizer, exchanges, max_replies=10, search=search)
    assert len(beams.replies) == 10
    assert beams.replies != outcome.replies[:10]


def test_no_run_of_tokens_stands_twice_where_that_is_asked(model, tokenizer, exchanges):
    def repeated(no_repeat_ngram_size, num_beams):
        sources = [exchanges.source(index) for index in range(len(exchanges))]
        options = {"num_beams": num_beams, "no_repeat_ngram_size": no_repeat_ngram_size}
        replies = TransformersEngine(model).generate(sources, GenerationConfig(**SEARCH | options))
        kept = [[token for token in reply if token not in tokenizer.all_special_ids] for reply in replies]
        return sum(len(set(itertools.pairwise(reply))) < len(reply) - 1 for reply in kept if reply)

    for num_beams in (1, 3):
        assert repeated(0, num_beams) > 0 == repeated(2, num_beams)


def test_evaluating_in_training_gives_the_same_and_leaves_the_model_in_training(model, tokenizer, exchanges, outcome):
    model.train()
    figures, replies = evaluate(model, tokenizer, exchanges, max_replies=5)
    assert model.training
    model.eval()
    assert figures.loss == pytest.approx(figures_of(exchanges, outcome, range(len(exchanges))).loss)
    assert len(replies) == 5 and figures.chrf is not None


def test_no_source_stands_beside_itself(model, exchanges, outcome):
    others = others_of_like_length(exchanges)
    assert sorted(others) == list(range(len(exchanges)))
    assert all(others != np.arange(len(exchanges)))
    for index in (0, 7):
        source = torch.tensor([exchanges.source(int(others[index])).tolist()])
        target = torch.tensor([exchanges.target(index).tolist()])
        with torch.no_grad():
            nats = model(source, labels=target).loss.item() * target.shape[1]
        assert outcome.nats_without_source[index] == pytest.approx(nats, rel=1e-5)


def test_a_history_is_exchanged_for_one_of_as_many_turns(model, tokenizer, exchanges, outcome):
    sources = sources_with_other_histories(exchanges, tokenizer)
    with_history = [index for index, history in enumerate(exchanges.histories) if len(turns_of(history)) > 1]
    assert set(sources) <= set(with_history) and len(sources) > len(with_history) / 2
    for index, source in sources.items():
        own = exchanges.source(index).tolist()
        question = tokenizer.encode(exchanges.histories[index][-1]["content"], add_special_tokens=False)
        # The question stays, and so does the system's message, before which nothing else stands.
        assert tokenizer.decode(question) in tokenizer.decode(source)
        assert (exchanges.histories[index][0]["role"] == "system") == (
            tokenizer.convert_tokens_to_ids("<|system|>") in source
        )
        with torch.no_grad():
            labels = torch.tensor([exchanges.target(index).tolist()])
            nats = model(torch.tensor([source]), labels=labels).loss.item() * labels.shape[1]
        assert outcome.nats_without_history[index] == pytest.approx(nats, rel=1e-5)
        assert (outcome.nats_without_history[index] == outcome.nats[index]) <= (source == own)
    assert np.isnan(outcome.nats_without_history[[i for i in range(len(exchanges)) if i not in sources]]).all()
    figures = figures_of(exchanges, outcome, range(len(exchanges)))
    saved = sum(outcome.nats_without_history[index] - outcome.nats[index] for index in sources) / math.log(2)
    assert figures.history_gain == pytest.approx(saved / sum(len(exchanges.replies[index]) for index in sources))


def test_another_model_of_transformers_can_be_evaluated(tokenizer, exchanges):
    torch.manual_seed(0)
    sizes = {f"{stack}_{name}": 2 for stack in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    sizes |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "d_model": 16, "vocab_size": len(tokenizer)}
    tokens = {"pad_token_id": 0, "eos_token_id": tokenizer.eos_token_id, "decoder_start_token_id": 0}
    marian = MarianMTModel(MarianConfig(**sizes, **tokens, forced_eos_token_id=None)).eval()
    figures, replies = evaluate(marian, tokenizer, exchanges, max_replies=3)
    assert figures.loss == pytest.approx(math.log(len(tokenizer)), rel=0.1)
    assert len(replies) == 3


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


def test_seen_and_unseen_add_up_to_all(exchanges, outcome, training):
    comparison = compare(exchanges, outcome, training)
    groups, figures = comparison.groups, comparison.model
    assert groups["seen"] and groups["unseen"]
    assert sorted(groups["seen"] + groups["unseen"]) == groups["all"]
    answers = {answer for _, answer in training}
    assert [exchanges.replies[index] in answers for index in groups["seen"]] == [True] * len(groups["seen"])
    characters = np.array([len(reply) for reply in exchanges.replies])
    ones = np.ones(len(exchanges))
    for name, weights in {
        "loss": exchanges.target_lengths,
        "bits_per_character": characters,
        "source_gain": characters,
        "exact_match": ones,
        "copied_replies": ones,
    }.items():
        parts = [getattr(figures[group], name) * weights[groups[group]].sum() for group in ("seen", "unseen")]
        assert sum(parts) / weights.sum() == pytest.approx(getattr(figures["all"], name)), name


def test_baselines_reply_to_the_last_question(exchanges, outcome, training):
    comparison = compare(exchanges, outcome, training)
    nearest = comparison.baseline_replies["nearest question"]
    answer_to = {}
    for question, answer in training:
        answer_to.setdefault(question, answer)
    known = 0
    for history, reply in zip(exchanges.histories, nearest, strict=True):
        # Several turns may lie before.
        if history[-1]["content"] in answer_to:
            known += 1
            assert reply == answer_to[history[-1]["content"]]
    assert known > 10
    most_frequent = Counter(answer for _, answer in training).most_common(1)[0][0]
    assert set(comparison.baseline_replies["most frequent answer"]) == {most_frequent}
    figures = comparison.baselines["most frequent answer"]["all"]
    assert (figures.distinct_replies, figures.most_frequent_reply, figures.copied_replies) == (1, 100, 100)
    by_hand = sacrebleu.corpus_chrf(nearest, [exchanges.replies]).score
    assert comparison.baselines["nearest question"]["all"].chrf == by_hand


def test_the_first_of_equally_near_questions_answers():
    training = [("배고파 죽겠어", "one"), ("오늘 날씨 어때", "two"), ("오늘 날씨 어때", "three"), ("배고파", "four")]
    asked = ["오늘 날씨 어때?", "배고파!", "배고파 죽겠다"]
    assert nearest_answers(asked, training) == ["two", "four", "one"]


def test_without_training_data_there_are_no_groups_and_no_baselines(exchanges, outcome):
    comparison = compare(exchanges, outcome, None)
    assert list(comparison.groups) == ["all"] and not comparison.baselines
    assert comparison.model["all"].copied_replies is None


def test_a_group_without_exchanges_has_no_figures(exchanges, outcome):
    everything = [("질문", reply) for reply in exchanges.replies]
    comparison = compare(exchanges, outcome, everything)
    assert comparison.model["unseen"] is None
    assert comparison.model["seen"] == comparison.model["all"]


@pytest.mark.parametrize("package", ["evaluate", "sacrebleu", "sklearn"])
def test_without_the_extra_the_other_figures_are_there(monkeypatch, exchanges, outcome, training, package):
    whole = compare(exchanges, outcome, training)
    monkeypatch.setitem(sys.modules, package, None)
    comparison = compare(exchanges, outcome, training)
    assert comparison.model["all"].chrf is None and comparison.model["all"].bleu is None
    assert comparison.model["all"].distinct_2 == whole.model["all"].distinct_2
    assert list(comparison.baselines) == ["most frequent answer"]
