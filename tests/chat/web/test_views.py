"""Every view of models that lack some of the parts: a recurrent one, and one without any attention."""

from types import SimpleNamespace

import pytest
import torch
from plotly.graph_objects import Figure

from chatformer import ChatformerForConditionalGeneration, EnsembleForConditionalGeneration
from chatformer.chat.chatbot import Chatbot
from chatformer.chat.engines import TransformersEngine
from chatformer.chat.web.page import Page
from chatformer.chat.web.views import VIEWS, Choice, drawn, num_layers_and_heads
from chatformer.chat.web.words import KOREAN, WORDS, words_for
from chatformer.configuration.configuration_bahdanau import BahdanauConfig
from chatformer.configuration.replies import ReplySettings
from chatformer.modeling_bahdanau import BahdanauForConditionalGeneration


def chosen(view, attention="cross", **beams):
    beams = ReplySettings(**{"num_beams": 2} | beams)
    return Choice(view=view, attention=attention, layer=1, head=0, with_special=True, beams=beams)


@pytest.mark.parametrize("has_attention", [True, False])
def test_a_recurrent_model_shows_what_it_has(has_attention, tokenizer):
    torch.manual_seed(0)
    config = BahdanauConfig(
        vocab_size=len(tokenizer),
        d_model=16,
        attention=has_attention,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.bos_token_id,
    )
    chatbot = Chatbot(TransformersEngine(BahdanauForConditionalGeneration(config).eval()), tokenizer, folder=None)
    answer = chatbot.answer([{"role": "user", "content": "따라 해 2 4"}], ReplySettings(max_new_tokens=5))
    log = [{"step": 1, "loss": 2.0, "learning_rate": 0.1}]

    def seen(view, attention="cross"):
        return drawn(chatbot, answer, chosen(view, attention), log, KOREAN)

    figures = {view for view in VIEWS if isinstance(seen(view), Figure)}
    assert figures == {"tokens", "steps", "beams", "training"} | ({"attention"} if has_attention else set())
    assert seen("masks") == seen("attention", "encoder") == KOREAN["no_attention"]
    assert seen("positions") == KOREAN["no_positions"]


@pytest.mark.parametrize(
    ("model_class", "fields", "num_heads"),
    [
        (ChatformerForConditionalGeneration, {"encoder_layers": 1, "decoder_layers": 3}, 2),
        (ChatformerForConditionalGeneration, {"encoder_layers": 3, "decoder_layers": 1}, 2),
        (EnsembleForConditionalGeneration, {"encoder_layers": 2, "decoder_layers": 1, "num_members": 3}, 6),
    ],
    ids=["deep decoder", "deep encoder", "ensemble"],
)
def test_every_layer_and_head_can_be_chosen(model_class, fields, num_heads, tokenizer):
    torch.manual_seed(0)
    config = model_class.config_class(vocab_size=len(tokenizer), d_model=16, num_heads=2, **fields)
    chatbot = Chatbot(TransformersEngine(model_class(config).eval()), tokenizer, folder=None)
    answer = chatbot.answer([{"role": "user", "content": "따라 해 2 4"}], ReplySettings(max_new_tokens=5))
    page = Page(chatbot=chatbot, title="bot", examples=[])
    assert num_layers_and_heads(chatbot, "cross") == (config.decoder_layers, num_heads)
    request = SimpleNamespace(headers={})
    controls = [control.value for control in page.controls(KOREAN)]

    def look(attention, layer, head):
        _, plot, _, layers, *_ = page.look(request, answer, "attention", attention, layer, head, True, *controls)
        return plot["value"].data[0].z, layers["choices"], layers["value"]

    for attention, num_layers in (
        ("encoder", config.encoder_layers),
        ("decoder", config.decoder_layers),
        ("cross", config.decoder_layers),
    ):
        pictures = []
        for number in range(1, num_layers + 1):
            for one in range(1, num_heads + 1):
                weights, choices, shown = look(attention, number, one)
                assert choices == list(range(1, num_layers + 1)) and shown == number
                pictures.append(weights.tobytes())
        assert len(set(pictures)) == num_layers * num_heads
        # What was chosen in a deeper stack becomes the last layer of this one.
        weights, _, shown = look(attention, 9, num_heads)
        assert shown == num_layers and weights.tobytes() == pictures[-1]


def test_the_tree_is_that_of_the_search_that_replied(trained):
    torch.set_num_threads(1)
    chatbot = Chatbot.from_pretrained(str(trained), device="cpu")
    replies = set()
    for settings in ({}, {"no_repeat_ngram_size": 1}, {"max_new_tokens": 3}, {"repetition_penalty": 9.0}):
        settings = {"num_beams": 3, **settings}
        answer = chatbot.answer([{"role": "user", "content": "따라 해 2 2"}], ReplySettings(**settings))
        *_, nodes = drawn(chatbot, answer, chosen("beams", **settings), [], KOREAN).data
        (best,) = [place for place, text in enumerate(nodes.text) if text.endswith(" #1")]
        # The first token is at 1.
        assert nodes.x[best] == len(answer.reply_ids)
        replies.add(answer.text)
    assert len(replies) > 1


def test_a_page_takes_whatever_its_flags_may_say(trained):
    chatbot = Chatbot.from_pretrained(str(trained), device="cpu")
    own = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "length_penalty": 2.0}
    for sampling in (
        {"temperature": 0.01, "top_p": 0.001, "top_k": 5000, "max_new_tokens": 1},
        {"temperature": 55.5, "top_p": 0.99, "top_k": 0, "max_new_tokens": 9999},
    ):
        greedily = {"temperature": 0.0, "top_p": 1.0, "top_k": 50}
        beams = ReplySettings(**own, **greedily, num_beams=64, max_new_tokens=9999)
        for settings in (ReplySettings(**own, **sampling), beams):
            page = Page(chatbot=chatbot, title="bot", examples=[], settings=settings)
            # As the browser sends back what it was shown.
            values = [control.preprocess(control.value) for control in page.controls(KOREAN)]
            assert page.chosen(*values) == settings


def test_both_languages_have_all_words_and_the_browser_chooses():
    assert WORDS["en"].keys() == WORDS["ko"].keys()
    assert words_for({"accept-language": "fr-FR,ko;q=0.8,en;q=0.5"}) is KOREAN
    assert words_for({})["language"] == "en"
