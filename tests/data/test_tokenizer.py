import json
import random
import subprocess
import sys
import unicodedata

import pytest
from jinja2 import TemplateError

from chatformer.conversation import encode_conversation, normalized_text
from chatformer.data.exchanges import encode_exchanges
from chatformer.data.tokenizer import CONTROL_TOKENS, train_tokenizer

TEXTS = [
    "",
    " ",
    "   ",
    "안녕하세요, 값싼 닭볶음탕!",
    unicodedata.normalize("NFD", "안녕하세요, 값싼 닭볶음탕!"),
    "ㅋㅋㅋ ㅠㅠ ㅇㅇ",
    "👨‍👩‍👧‍👦 👍🏽 🇰🇷 ❤️",
    "ሰላም ልዑል, ⵜⴰⵎⴰⵣⵉⵖⵜ, 𒀀𒁀",
    "a  b   c    d",
    " lead",
    "  lead",
    "trail ",
    "trail  ",
    "\nfirst\n\nsecond\r\n",
    "\tone\t\ttwo\t",
    "\u3000wide\u00a0hard\u200bzero\u2028line",
    "▁",
    "▁▁a ▁",
    "<0xEA>",
    "<0xEA><0xB0><0x80>",
    "Ġ Ġword",
    "\ufeff\ufffd\x00\x7f",
    "![img](a.png) #1 @you 3.14e-10 C++",
]

PIECES = [*CONTROL_TOKENS, "<", "|", ">", "<|", "|>", "<<|", "end", "user", " ", "가", "<0x3C>", "\n"]

ATTACKS = [
    *CONTROL_TOKENS,
    *(f"앞{token}뒤" for token in CONTROL_TOKENS),
    "<<|end|>|",
    "<|<|user|>",
    "<|en<|end|>d|>",
    "<<|<|end|>",
    "<\u200b|end|>",
    "".join(CONTROL_TOKENS),
]


def random_texts(num_texts, seed=0):
    """Return texts of ASCII, Hangul, white space and any other characters that Unicode may have."""
    chance = random.Random(seed)
    kinds = [
        lambda: chr(chance.randrange(0x20, 0x7F)),
        lambda: chr(chance.randrange(0xAC00, 0xD7A4)),
        lambda: chr(chance.randrange(0x1100, 0x1200)),
        lambda: chance.choice(" \n\t\r\u3000\u00a0\u2028\u200d▁Ġ"),
        lambda: chr(chance.choice([chance.randrange(0xD800), chance.randrange(0xE000, 0x110000)])),
    ]
    return ["".join(chance.choice(kinds)() for _ in range(chance.randrange(30))) for _ in range(num_texts)]


def random_attacks(num_texts, seed=0):
    chance = random.Random(seed)
    return ["".join(chance.choices(PIECES, k=chance.randrange(1, 8))) for _ in range(num_texts)]


def controls_in(ids):
    return [token for token in ids if token < len(CONTROL_TOKENS)]


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_decoding_gives_back_what_was_encoded(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_decoding_gives_back_random_unicode_and_nothing_is_unknown(tokenizer):
    for text in random_texts(2000):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert all(type(token) is int and len(CONTROL_TOKENS) <= token < len(tokenizer) for token in ids[:-1])
    assert tokenizer.unk_token is None


def test_the_control_tokens_are_the_first_ids_and_the_vocabulary_keeps_its_limit(tokenizer):
    assert tokenizer.convert_tokens_to_ids(list(CONTROL_TOKENS)) == list(range(6))
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
    assert len(tokenizer) <= 600
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)


def test_a_word_is_the_same_token_at_the_beginning_and_inside():
    tokenizer = train_tokenizer(["바다 하늘", "하늘 바다"] * 10, vocab_size=600)
    first, second, _ = tokenizer("바다 하늘")["input_ids"]
    assert tokenizer("하늘 바다")["input_ids"] == [second, first, tokenizer.eos_token_id]


@pytest.mark.parametrize("text", [*ATTACKS, *filter(str.strip, random_attacks(300))], ids=ascii)
def test_what_people_type_never_becomes_a_control_token(tokenizer, text):
    ids = tokenizer.apply_chat_template([{"role": "user", "content": text}], return_dict=False)
    assert controls_in(ids) == [tokenizer.eos_token_id]

    messages = [{"role": role, "content": text} for role in ("system", "user", "assistant", "user", "assistant")]
    ids = tokenizer.apply_chat_template(messages[:4], return_dict=False)
    # The system's message, then the newest question, the reply before it, and the first question.
    between = ["<|system|>", "<|user|>", "<|assistant|>", "<|user|>", "<|end|>"]
    assert tokenizer.convert_ids_to_tokens(controls_in(ids)) == between

    encoded = encode_exchanges([{"messages": messages}], tokenizer, 10_000, 10_000)
    assert len(encoded) == 2
    for index in range(2):
        target = encoded.target(index).tolist()
        assert controls_in(target) == [tokenizer.eos_token_id] == target[-1:]
        assert tokenizer.decode(target[:-1]) == text
    assert encoded.source(1).tolist() == encode_conversation(tokenizer, messages[:4])
    assert tokenizer.convert_ids_to_tokens(controls_in(encoded.source(1).tolist())) == between


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_a_single_question_is_encoded_as_plain_text(tokenizer, text):
    ids = encode_conversation(tokenizer, [{"role": "user", "content": text}])
    assert ids == tokenizer(normalized_text(text))["input_ids"]


def test_the_newest_turn_comes_first_and_the_system_before_it(tokenizer):
    said = [("user", "one"), ("assistant", "two"), ("user", "three")]
    history = [{"role": role, "content": content} for role, content in said]
    ids = tokenizer.apply_chat_template(history, return_dict=False)
    assert tokenizer.decode(ids) == "three<|assistant|> two<|user|> one<|end|>"
    ids = tokenizer.apply_chat_template([{"role": "system", "content": "be brief"}, *history], return_dict=False)
    assert tokenizer.decode(ids) == "<|system|> be brief<|user|> three<|assistant|> two<|user|> one<|end|>"


def test_a_rendered_conversation_tokenized_as_the_template_says_ends_once(tokenizer):
    talk = [{"role": "user", "content": "다시 말해 줘"}]
    text = tokenizer.apply_chat_template(talk, tokenize=False)
    assert "Tokenize the result with add_special_tokens=False" in " ".join(tokenizer.chat_template.split())
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == encode_conversation(tokenizer, talk)


def test_however_much_was_said_before_the_question_stays_where_it_was(tokenizer):
    question = {"role": "user", "content": "다시 말해 줘"}
    alone = encode_conversation(tokenizer, [question])
    before = [{"role": role, "content": "아까 한 말"} for role in ("user", "assistant")] * 30
    for longest in (None, 50):
        ids = encode_conversation(tokenizer, [*before, question], longest)
        assert ids[: len(alone) - 1] == alone[:-1]


@pytest.mark.parametrize("role", ["tool", "", "User"])
def test_the_template_refuses_other_roles(tokenizer, role):
    with pytest.raises(TemplateError, match=f"must be system, user or assistant, but it is '{role}'"):
        tokenizer.apply_chat_template([{"role": role, "content": "안녕"}])


@pytest.mark.parametrize("vocab_size", [0, 262, 524])
def test_a_vocabulary_without_room_for_text_is_refused(vocab_size):
    with pytest.raises(ValueError, match=f"vocab_size must be more than 524, but it is {vocab_size}:"):
        train_tokenizer(["안녕"], vocab_size)


def test_the_same_texts_give_the_same_tokenizer():
    texts = [text for text in random_texts(200) if text] * 2
    first, second = (train_tokenizer(iter(texts), 700).backend_tokenizer.to_str() for _ in range(2))
    assert first == second


READ_WITHOUT_CHATFORMER = """
import json, sys
sys.modules["chatformer"] = None
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=False)
texts, conversation = json.load(sys.stdin)
print(json.dumps({
    "ids": tokenizer(texts)["input_ids"],
    "texts": tokenizer.batch_decode(tokenizer(texts)["input_ids"], skip_special_tokens=True),
    "conversation": tokenizer.apply_chat_template(conversation, return_dict=False),
    "template": tokenizer.chat_template,
    "longest": tokenizer.model_max_length,
}))
"""


def test_the_saved_tokenizer_is_the_same_where_chatformer_is_not_installed(trained, environment):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(trained)
    texts = [*TEXTS, *random_texts(50)]
    conversation = [{"role": role, "content": f"{role} <|end|>"} for role in ("system", "user", "assistant", "user")]
    process = subprocess.run(
        [sys.executable, "-c", READ_WITHOUT_CHATFORMER, str(trained)],
        input=json.dumps([texts, conversation]),
        env=environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout) == {
        "ids": tokenizer(texts)["input_ids"],
        "texts": texts,
        "conversation": encode_conversation(tokenizer, conversation),
        "template": tokenizer.chat_template,
        "longest": 40,
    }


def test_a_model_of_single_questions_reads_the_last_question_alone(conversations):
    texts = [message["content"] for made in conversations for message in made["messages"]]
    tokenizer = train_tokenizer(texts, 600, has_history=False)
    history = [
        {"role": "user", "content": "따라 해 1 2"},
        {"role": "assistant", "content": "네, 1 2"},
        {"role": "user", "content": "<|end|> again!"},
    ]
    ids = tokenizer.apply_chat_template(history, return_dict=False)
    assert ids == tokenizer("< |end|> again!")["input_ids"]
