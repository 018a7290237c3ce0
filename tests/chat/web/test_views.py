"""Every view of models that lack some of the parts: a recurrent one, and one without any attention."""

import pytest
import torch
from plotly.graph_objects import Figure

from chatformer.chat.chatbot import Chatbot
from chatformer.chat.engines import TransformersEngine
from chatformer.chat.web.views import VIEWS, Choice, drawn
from chatformer.chat.web.words import KOREAN, WORDS, words_for
from chatformer.configuration.configuration_bahdanau import BahdanauConfig
from chatformer.configuration.replies import ReplySettings
from chatformer.modeling_bahdanau import BahdanauForConditionalGeneration


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
        choice = Choice(view=view, attention=attention, layer=1, head=0, with_special=True, num_beams=2)
        return drawn(chatbot, answer, choice, log, KOREAN)

    figures = {view for view in VIEWS if isinstance(seen(view), Figure)}
    assert figures == {"tokens", "steps", "beams", "training"} | ({"attention"} if has_attention else set())
    assert seen("masks") == seen("attention", "encoder") == KOREAN["no_attention"]
    assert seen("positions") == KOREAN["no_positions"]


def test_both_languages_have_all_words_and_the_browser_chooses():
    assert WORDS["en"].keys() == WORDS["ko"].keys()
    assert words_for({"accept-language": "fr-FR,ko;q=0.8,en;q=0.5"}) is KOREAN
    assert words_for({})["language"] == "en"
