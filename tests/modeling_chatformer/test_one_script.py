"""A reply is a picture or words, never both."""

import copy
import re

import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

from chatformer.chat.engines import TransformersEngine
from chatformer.one_script import one_script
from chatformer.pictures import PICTURE, stand_alone
from chatformer.pipeline_chatformer import Seq2SeqChatPipeline


@pytest.fixture(scope="module")
def artist(drawer):
    """A model that would draw anything behind anything, and its tokenizer."""
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(drawer), AutoTokenizer.from_pretrained(drawer)
    torch.manual_seed(0)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.02)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=model.config.decoder_start_token_id,
        pad_token_id=model.config.pad_token_id,
        eos_token_id=model.config.eos_token_id,
        do_sample=True,
        max_new_tokens=12,
    )
    return model, tokenizer


def kinds_of(tokenizer, ids):
    """Whether a reply has tokens of pictures, and whether it has tokens of words."""
    tokens = tokenizer.convert_ids_to_tokens(ids)
    return any(map(PICTURE.search, tokens)), any(token.strip("▁").isalnum() for token in tokens)


def test_a_reply_goes_on_as_it_has_begun(artist):
    model, tokenizer = artist
    sources = [tokenizer("red")["input_ids"]] * 400
    kinds = []
    # One that knows no tokenizer has no rules.
    for engine in (TransformersEngine(model), TransformersEngine(model, tokenizer)):
        engine.set_seed(0)
        replies = engine.generate(sources, model.generation_config)
        kinds.append({kinds_of(tokenizer, ids) for ids in replies})
    assert (True, True) in kinds[0]
    assert {(True, False), (False, True)} <= kinds[1] and (True, True) not in kinds[1]


def test_the_pipeline_keeps_to_it_beside_other_rules(artist):
    model, tokenizer = artist
    seen = []

    def other_rule(input_ids, scores):
        seen.append(bool(scores.isinf().any()))
        return scores

    chat = Seq2SeqChatPipeline(model, tokenizer)
    torch.manual_seed(0)
    replies = chat(["red"] * 100, logits_processor=[other_rule], return_tensors=True)
    kinds = {kinds_of(tokenizer, reply["generated_token_ids"]) for reply in replies}
    assert (False, True) in kinds and (True, True) not in kinds
    assert not seen[0] and any(seen)


def test_what_is_given_as_a_beginning_may_have_both(artist):
    model, tokenizer = artist
    (rule,) = one_script(model, tokenizer)
    vocabulary = tokenizer.get_vocab()
    kinds = (str.isalpha, PICTURE.search, re.compile("<0x..>").fullmatch)
    word, letter, byte = (next(number for token, number in vocabulary.items() if kind(token)) for kind in kinds)
    end = tokenizer.eos_token_id
    start = tokenizer.bos_token_id
    # Room for three tokens more than the tokenizer has.
    unknown = len(tokenizer) + 1
    scores = rule(
        torch.tensor([[start, unknown], [start, byte], [start, word], [start, letter], [word, letter]]),
        torch.zeros(5, len(tokenizer) + 3),
    )
    allowed = scores == 0
    assert allowed[0].all() and allowed[1].all() and allowed[4].all()
    assert allowed[2, word] and not allowed[2, letter] and allowed[3, letter] and not allowed[3, word]
    assert allowed[:, [byte, end, -1]].all()


def test_replies_that_have_both_are_learnt_as_they_are(artist, trained):
    model, tokenizer = artist
    assert model.config.pictures_stand_alone
    assert not AutoConfig.from_pretrained(trained).pictures_stand_alone
    letters = "\U00100000\U000f0000"
    assert stand_alone(["red", letters, f" {letters}{letters}"]) and not stand_alone(["red", "blue"])
    assert not stand_alone([letters, f"Here you are: {letters}"])
    mixing = copy.copy(model)
    mixing.config = copy.copy(model.config)
    mixing.config.pictures_stand_alone = False
    assert not one_script(mixing, tokenizer)
