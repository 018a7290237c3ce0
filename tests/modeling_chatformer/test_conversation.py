"""The one door for text: whatever form it comes in, a model reads one."""

import unicodedata

import pytest
from jinja2.exceptions import TemplateError

from chatformer.conversation import (
    NotText,
    encode_conversation,
    ids_of_texts,
    normalized_conversation,
    normalized_text,
)
from chatformer.data.tokenizer import train_tokenizer

HANGUL = "안녕, 반가워!"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (unicodedata.normalize("NFD", HANGUL), HANGUL),
        (f"\ufeff \t{HANGUL}\u3000\u200b\r\n", HANGUL),
        ("one\r\ntwo\rthree\n\nfour", "one\ntwo\nthree\n\nfour"),
        ([{"type": "text", "text": "안"}, {"type": "text", "text": "녕"}, "!"], "안녕!"),
        ([], ""),
        # What is invisible alone has its effect in a text: emoji of a family, a red heart, and two letters kept apart.
        ("👩\u200d👧 ❤\ufe0f ab\u00adcd", "👩\u200d👧 ❤\ufe0f ab\u00adcd"),
        # A letter of a script of pictures.
        ("\ue000\U000f0000", "\ue000\U000f0000"),
    ],
    ids=ascii,
)
def test_a_text_has_one_form(value, text):
    assert normalized_text(value) == text
    assert normalized_text(text) == text


INVISIBLE = "\u3164\u115f\uffa0\u200b\u2060\u2800\u00ad\ufeff\ufe0f\U000e0100\u200e\x00\x1b\u2028"


@pytest.mark.parametrize("value", [*INVISIBLE, " \u3164\n\u2800 "], ids=ascii)
def test_what_only_looks_empty_is_empty(value):
    assert normalized_text(value) == normalized_text(value * 3) == ""


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, "is missing"),
        (5, "is not text but int"),
        (b"bytes", "is not text but bytes"),
        ({"text": "a"}, "is not text but dict"),
        (b"\xb0\xa1".decode("utf-8", "surrogateescape"), "has the byte 0xB0, which is not UTF-8"),
        ("a\ud83d", "has half a surrogate pair (U+D83D)"),
        ([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": "x"}], "is not text but 'image_url'"),
        ([{"type": "text", "text": 5}], "has a part"),
        ([None], "is not text but 'NoneType'"),
    ],
    ids=ascii,
)
def test_what_is_no_text_is_named(tokenizer, value, found):
    with pytest.raises(NotText) as refused:
        encode_conversation(tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": value}])
    assert str(refused.value).startswith("The content of message 2 ") and found in str(refused.value)


@pytest.mark.parametrize("message", ["text", None, ["role", "content"]])
def test_a_message_has_a_role_and_a_content(message):
    with pytest.raises(NotText, match="Message 1 must have a role and a content, but it is"):
        normalized_conversation([message])


def test_whatever_form_a_conversation_has_its_ids_are_the_same(tokenizer):
    said = [("system", "짧게"), ("user", HANGUL), ("assistant", "네\n네"), ("user", "again!")]
    plain = [{"role": role, "content": content} for role, content in said]
    decomposed = [{**message, "content": unicodedata.normalize("NFD", message["content"])} for message in plain]
    in_parts = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in plain]
    from_windows = [{**message, "content": message["content"].replace("\n", "\r\n") + "\r\n"} for message in plain]
    for other in (decomposed, in_parts, from_windows):
        assert encode_conversation(tokenizer, other) == encode_conversation(tokenizer, plain)
    silent = [{"role": "system", "content": "\u200b"}, *plain[1:]]
    assert encode_conversation(tokenizer, silent) == encode_conversation(tokenizer, plain[1:])


@pytest.mark.parametrize("has_history", [True, False])
@pytest.mark.parametrize(
    ("message", "found"),
    [
        ({"role": "user", "content": None}, "content must be text"),
        ({"role": "user", "content": 5}, "content must be text"),
        ({"role": "user", "content": [{"type": "text", "text": "a"}]}, "content must be text"),
        ({"role": "user"}, "content must be text"),
        ({"role": "tool", "content": "a"}, "role must be system, user or assistant"),
        ({"content": "a"}, "role must be system, user or assistant"),
    ],
)
def test_the_templates_refuse_what_they_do_not_know(message, found, has_history):
    tokenizer = train_tokenizer(["안녕", "반가워"], 600, has_history=has_history)
    for talk in ([message, {"role": "user", "content": "안녕"}], [{"role": "user", "content": "안녕"}, message]):
        with pytest.raises(TemplateError, match=found):
            tokenizer.apply_chat_template(talk)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("add", [False, True])
def test_ids_are_those_of_a_call(tokenizer, monkeypatch, split, add):
    texts = ["안녕하세요", "", "a<pad>b", tokenizer.eos_token, "👩🏽\u200d🚒 \x07\n", "한 " * 200]
    called = tokenizer(texts, add_special_tokens=add, split_special_tokens=split)["input_ids"]
    options = {"add_special_tokens": add, "split_special_tokens": split}
    # A call that cut and padded leaves the tokenizer like that.
    tokenizer(texts, truncation=True, max_length=3, padding=True)
    assert ids_of_texts(tokenizer, texts, **options) == called
    calls = []
    monkeypatch.setattr(type(tokenizer), "__call__", lambda *_, **options: calls.append(options))
    assert ids_of_texts(tokenizer, texts, **options) == called and not calls
