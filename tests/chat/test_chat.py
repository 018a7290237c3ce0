import contextlib
import gc
import io
import itertools
import os
import pty
import random
import select
import shutil
import subprocess
import sys
import time
import unicodedata

import pytest
import torch
import transformers
from rich.console import Console

from chatformer.chat.chatbot import Chatbot, Conversation, joined
from chatformer.chat.errors import ModelNotFound
from chatformer.chat.streaming import Pieces
from chatformer.chat.terminal import run_command, talk
from chatformer.cli.main import main
from chatformer.configuration.replies import ChatSettings, ReplySettings
from chatformer.conversation import encode_conversation
from chatformer.data.exchanges import encode_exchanges

GREEDY = ReplySettings()
DARING = ReplySettings(temperature=3.0, max_new_tokens=30)


@pytest.fixture(scope="module")
def chatbot(trained):
    torch.set_num_threads(1)
    return Chatbot.from_pretrained(str(trained), device="cpu")


@pytest.fixture
def heard(chatbot):
    """Return the list of the sources that the model gets to read, in ids."""
    sources = []
    hook = chatbot.engine.model.get_encoder().register_forward_pre_hook(
        lambda _, args, named: sources.append((args[0] if args else named["input_ids"])[0].tolist()), with_kwargs=True
    )
    yield sources
    hook.remove()


@pytest.mark.parametrize("text", ["따라 해 1 2", "again!", "처음 보는 말 🤖", "x" * 500])
def test_a_reply_is_that_of_the_stock_generate_whole_and_in_pieces(chatbot, text):
    messages = [{"role": "user", "content": text}]
    pieces = []
    reply = chatbot.reply(messages, GREEDY, pieces.append)
    assert "".join(pieces) == reply == chatbot.reply(messages, GREEDY)

    ids = encode_conversation(chatbot.tokenizer, messages, 40)
    generated = chatbot.engine.model.generate(torch.tensor([ids]), do_sample=False)
    assert chatbot.tokenizer.decode(generated[0], skip_special_tokens=True) == reply


def test_drawn_replies_come_whole_in_pieces_too(chatbot):
    messages = [{"role": "user", "content": "따라 해 1 2"}]
    replies = set()
    for seed in range(30):
        pieces = []
        transformers.set_seed(seed)
        reply = chatbot.reply(messages, DARING, pieces.append)
        assert "".join(pieces) == reply
        transformers.set_seed(seed)
        assert chatbot.reply(messages, DARING) == reply
        replies.add(reply)
    assert len(replies) > 20


def test_whatever_tokens_are_drawn_the_pieces_are_the_text(tokenizer):
    chance = random.Random(0)
    spelt = tokenizer("안녕 🤖👍🏽 쀍뷁 ok", add_special_tokens=False)["input_ids"]
    # The long ones are decoded in parts.
    lengths = [20] * 500 + [400] * 20
    drawn = [[chance.randrange(len(tokenizer)) for _ in range(length)] for length in lengths]
    for ids in [spelt, *drawn]:
        pieces = []
        told = Pieces(tokenizer, pieces.append)
        for token in [tokenizer.bos_token_id, *ids]:
            told.add(token)
        told.end(tokenizer.decode(ids, skip_special_tokens=True))
        assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True)
        assert all(pieces)
    pieces = []
    told = Pieces(tokenizer, pieces.append)
    for token in spelt:
        told.add(token)
    told.end(tokenizer.decode(spelt))
    assert len(pieces) > 3 and not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_a_search_over_beams_tells_its_reply_at_once(chatbot):
    messages = [{"role": "user", "content": "따라 해 1 2"}]
    pieces = []
    reply = chatbot.reply(messages, ReplySettings(num_beams=3), pieces.append)
    assert pieces == [reply]


@pytest.mark.parametrize("system", [None, "짧게 <|end|>"])
def test_chatting_and_training_read_the_same_ids(chatbot, heard, system):
    conversation = Conversation(chatbot, system)
    for text in ("따라 해 1 2", " again! <|user|> ", "끝"):
        conversation.say(text, GREEDY)
    # Nothing is cut yet, or equal cuts could hide unequal conversations.
    whole = encode_exchanges([{"messages": conversation.messages}], chatbot.tokenizer, 10_000, 10_000)
    as_trained = encode_exchanges([{"messages": conversation.messages}], chatbot.tokenizer, 40, 10_000)
    assert heard == [as_trained.source(index).tolist() for index in range(3)]
    assert heard[0] == whole.source(0).tolist()
    begin = 1 if system else 0
    for index, ids in enumerate(heard):
        said = conversation.messages[: begin + 2 * index + 1]
        assert ids == encode_conversation(chatbot.tokenizer, said, chatbot.max_source_tokens)


def test_a_cut_leaves_out_as_few_exchanges_as_it_can(chatbot):
    chance = random.Random(0)

    def one_by_one(messages):
        """Leave out the oldest exchange until the rest fits."""
        system = [message for message in messages[:1] if message["role"] == "system"]
        turns = messages[len(system) :]
        ids = encode_conversation(chatbot.tokenizer, system + turns)
        while len(ids) > 40 and len(turns) > 1:
            turns = turns[min(2 if turns[0]["role"] == "user" else 1, len(turns) - 1) :]
            ids = encode_conversation(chatbot.tokenizer, system + turns)
        return ids[-40:]

    for _ in range(200):
        roles = (
            ["system"] * chance.randrange(2) + chance.choices(["user", "assistant"], k=chance.randrange(12)) + ["user"]
        )
        messages = [{"role": role, "content": "따라 해 1 2 " * chance.randrange(9)} for role in roles]
        assert encode_conversation(chatbot.tokenizer, messages, 40) == one_by_one(messages)


def test_the_history_is_kept_and_cut_by_whole_exchanges(chatbot, heard):
    conversation = Conversation(chatbot, "짧게")
    replies = [conversation.say(f"따라 해 {number} {number}", GREEDY) for number in range(8)]
    assert [message["role"] for message in conversation.messages] == ["system", *["user", "assistant"] * 8]
    assert [message["content"] for message in conversation.messages[2::2]] == replies

    assert chatbot.max_source_tokens == chatbot.tokenizer.model_max_length == 40
    assert max(map(len, heard)) <= 40
    system, *turns = conversation.messages[:-1]
    # The longest end of the conversation that begins with a question and fits.
    ends = [encode_conversation(chatbot.tokenizer, [system, *turns[begin:]]) for begin in range(0, len(turns), 2)]
    assert len(ends[0]) > 40
    assert heard[-1] == next(ids for ids in ends if len(ids) <= 40)
    assert heard[1] == encode_conversation(chatbot.tokenizer, conversation.messages[:4])


def test_reset_forgets_all_but_the_system_message(chatbot, heard):
    conversation = Conversation(chatbot, "짧게")
    first = conversation.say("따라 해 3 4", GREEDY)
    conversation.say("again!", GREEDY)
    conversation.reset()
    assert conversation.messages == [{"role": "system", "content": "짧게"}]
    assert conversation.say("따라 해 3 4", GREEDY) == first
    assert heard[0] == heard[2]
    assert len(conversation.messages) == 3


def test_decomposed_text_is_read_as_composed_text_is(chatbot, heard):
    for form in ("NFC", "NFD"):
        Conversation(chatbot, unicodedata.normalize(form, "짧게")).say(unicodedata.normalize(form, "안녕"), GREEDY)
    assert heard[0] == heard[1]


def test_a_reply_that_is_stopped_is_not_remembered(chatbot):
    conversation = Conversation(chatbot)
    conversation.say("따라 해 1 2", GREEDY)

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversation.say("again!", GREEDY, on_text=stop)
    assert len(conversation.messages) == 2


@pytest.mark.parametrize("what", ["empty", "missing"])
def test_a_folder_without_a_model_is_told(tmp_path, capsys, monkeypatch, what):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path if what == "empty" else tmp_path / "missing"
    assert main(["chat", str(folder)]) == 2
    assert gc.isenabled()
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and str(folder) in captured.err
    assert captured.out == ""
    with pytest.raises(ModelNotFound, match="holds no model: it has no config.json" if what == "empty" else "missing"):
        Chatbot.from_pretrained(str(folder))


def test_lines_through_a_pipe_are_answered_line_by_line(trained, environment, chatbot):
    command = [sys.executable, "-m", "chatformer.cli.main", "chat", str(trained), "--device", "cpu"]
    lines = ("안녕", "hello", "1 2 3 " * 200)
    for said in (lines[:2], lines):
        text = "".join(f"{line}\n" for line in said)
        process = subprocess.run(command, input=text, env=environment, capture_output=True, text=True, encoding="utf-8")
        assert process.returncode == 0, process.stderr
        conversation = Conversation(chatbot)
        expected = [" ".join(conversation.say(line, GREEDY).split()) for line in said]
        assert process.stdout.split("\n") == [*expected, ""]
        told = f"note: 1 line of more than the {chatbot.max_source_tokens} tokens that the model was trained on"
        assert process.stderr.startswith(told) if len(said) == 3 else process.stderr == ""


class Terminal:
    """A program in a terminal of its own, to type into and to read from."""

    def __init__(self, command, environment):
        self.screen, keyboard = pty.openpty()
        self.process = subprocess.Popen(command, stdin=keyboard, stdout=keyboard, stderr=keyboard, env=environment)
        os.close(keyboard)

    def read(self, mark="you> ", seconds=120):
        """Return what appears, up to `mark`, or to the program's end."""
        shown, until = b"", time.monotonic() + seconds
        while not shown.decode("utf-8", "ignore").endswith(mark):
            assert time.monotonic() < until, shown
            if select.select([self.screen], [], [], 1)[0]:
                try:
                    shown += os.read(self.screen, 4096)
                except OSError:
                    # So Linux tells that the program has gone.
                    break
        return shown.decode("utf-8")

    def type(self, line):
        os.write(self.screen, f"{line}\n".encode())
        return self.read()


@pytest.fixture
def start(environment):
    """Return a function that begins a chat with a model in a terminal."""
    with contextlib.ExitStack() as stack:

        def start(folder):
            command = [sys.executable, "-m", "chatformer.cli.main", "chat", str(folder), "--device", "cpu"]
            terminal = Terminal(command, environment | {"TERM": "dumb", "COLUMNS": "200"})
            stack.callback(os.close, terminal.screen)
            stack.callback(terminal.process.wait)
            stack.callback(terminal.process.kill)
            return terminal

        yield start


@pytest.fixture
def terminal(start, trained):
    return start(trained)


@pytest.mark.parametrize(
    ("verb", "message"),
    [("chat", "Nothing can be read: standard input is closed."), ("generate", "there is nothing to reply to.")],
)
def test_a_closed_standard_input_is_told_of(verb, message, trained, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    assert main([verb, str(trained), "--device", "cpu"]) == 2
    assert f"error: {message}" in capsys.readouterr().err


def test_who_leaves_before_the_model_is_loaded_leaves_quietly(terminal):
    terminal.read()
    assert terminal.type("/quit").split() == ["/quit"]
    assert terminal.process.wait(timeout=60) == 0


def test_what_is_wrong_with_a_model_is_said_before_anything_is_typed(start, trained, tmp_path):
    shutil.copy(trained / "config.json", tmp_path)
    terminal = start(tmp_path)
    assert "Say something" in terminal.read()
    assert "error: The weights" in terminal.read(mark="until its end")
    assert terminal.process.wait(timeout=60) == 2


def test_a_conversation_in_a_terminal(terminal, chatbot):
    assert "/help shows the commands, /quit leaves" in terminal.read()
    help_ = terminal.type("/help")
    assert all(command in help_ for command in ("/reset", "/more", "/settings", "/set NAME VALUE", "/quit"))

    conversation = Conversation(chatbot)
    for text in ("따라 해 1 2", "again!"):
        assert f"bot> {conversation.say(text, GREEDY)}" in terminal.type(text)
    assert f"bot> {conversation.more(GREEDY)}" in terminal.type("/more")
    assert "new conversation" in terminal.type("/reset")
    assert "Say something first" in terminal.type("/more")
    conversation.reset()
    assert f"bot> {conversation.say('again!', GREEDY)}" in terminal.type("again!")

    assert "and not the beginning of what you said" in terminal.type("따라 해 " + "1 2 3 " * 200)
    assert "temperature = 0, the model's own" in terminal.type("/settings")
    assert "/set takes a name and a value" in terminal.type("/set temperature")
    assert "top_p = 0.9" in terminal.type("/set top-p 0.9")
    assert "temperature = 0.5" in terminal.type("/set temperature 0.5")
    assert "There is no setting 'temprature'. Did you mean 'temperature'?" in terminal.type("/set temprature 1")
    assert "temperature must be a number, but it is 'warm'" in terminal.type("/set --temperature warm")
    assert "max_new_tokens must be a whole number, but it is '1e1'" in terminal.type("/set max-new-tokens 1e1")
    shown = terminal.type("/settings")
    assert "temperature = 0.5" in shown and "num_beams = 1" in shown
    assert "top_p = 1.0, the model's own" in terminal.type("/set top_p none")
    assert "Unknown command: /rest" in terminal.type("/rest")

    terminal.type("/quit")
    assert terminal.process.wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "-1"),
        ("top_p", "0"),
        ("top_p", "nan"),
        ("top_k", "-1"),
        ("num_beams", "0"),
        ("num_beams", "1001"),
        ("repetition_penalty", "0"),
        ("no_repeat_ngram_size", "-1"),
        ("max_new_tokens", "0"),
    ],
)
def test_what_no_search_could_do_is_told_at_once(chatbot, capsys, name, value):
    flag = "--" + name.replace("_", "-")
    assert main(["chat", "nowhere", flag, value]) == 2
    assert capsys.readouterr().err.startswith(f"error: {flag} must be")
    settings = ChatSettings(reply=ReplySettings(temperature=0.5))
    shown = io.StringIO()
    kept = run_command("set", [name, value], Conversation(chatbot, None), settings, Console(file=shown))
    assert kept is settings
    assert shown.getvalue().startswith(f"{flag} must be")


def test_what_is_mistyped_is_no_reason_to_leave(chatbot, capsys, monkeypatch):
    broken = UnicodeDecodeError("utf-8", b"\xb0", 0, 1, "invalid start byte")
    said = unicodedata.normalize("NFD", " 따라 해 1 2\u200b")
    typed = ["/", "/[/x]", "\udcb0\udca1", broken, "\u3164", said, EOFError()]

    def next_input(prompt):
        line = typed.pop(0)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", next_input)
    conversation = Conversation(chatbot)
    assert talk(lambda: conversation, ChatSettings()) == 0 and typed == []
    shown = capsys.readouterr().out
    assert "Unknown command: /\n" in shown and "Unknown command: /[/x]\n" in shown
    assert shown.count("That is not text in ") == 2
    # What looks empty is not said.
    assert [message["content"] for message in conversation.messages[::2]] == ["따라 해 1 2"]


@pytest.mark.parametrize("verb", ["chat", "generate"])
def test_a_system_message_is_text(verb, trained, tmp_path, monkeypatch, capsys):
    (tmp_path / "lines").write_text("a\n")
    with (tmp_path / "lines").open("rb") as lines:
        monkeypatch.setattr(sys, "argv", ["chatformer", verb, str(trained), "--system", "\udcb0\udca1"])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(lines))
        assert main() == 2
    assert capsys.readouterr().err.startswith("error: --system has the byte 0xB0, which is not UTF-8")


def test_a_row_without_a_token_adds_nothing_to_a_reply(chatbot):
    ids, said = chatbot.tokenizer("따라 해 1 2")["input_ids"], []
    pieces = Pieces(chatbot.tokenizer, said.append)
    for token in (ids[0], len(chatbot.tokenizer) + 7, *ids[1:]):
        pieces.add(token)
    assert "".join(said) == "따라 해 1 2"


def test_no_run_of_tokens_stands_twice_where_that_is_asked(chatbot):
    def has_twice(settings):
        (reply,) = chatbot.engine.generate([[5, 6, 7]], settings.search())
        return len(set(itertools.pairwise(reply))) < len(reply) - 1

    # Drawn from all tokens nearly alike, so that pairs come twice by chance.
    drawn = {"temperature": 50.0, "top_k": 3, "max_new_tokens": 40}
    transformers.set_seed(0)
    assert any(has_twice(ReplySettings(**drawn)) for _ in range(20))
    assert not any(has_twice(ReplySettings(**drawn, no_repeat_ngram_size=2)) for _ in range(20))


def test_ctranslate2_gives_the_same_replies_token_by_token(chatbot, trained, tmp_path):
    pytest.importorskip("ctranslate2")
    folder = tmp_path / "ctranslate2"
    assert main(["export", str(trained), "--to", "ctranslate2", "--output-dir", str(folder)]) == 0
    other = Chatbot.from_pretrained(str(folder), engine="ctranslate2", device="cpu")
    for text in ("따라 해 1 2", "따라 해 7 3", "again!"):
        messages = [{"role": "user", "content": text}]
        pieces = []
        reply = other.reply(messages, GREEDY, pieces.append)
        assert reply == "".join(pieces) == chatbot.reply(messages, GREEDY)
        assert len(pieces) > 1
    for settings in (ReplySettings(num_beams=3, repetition_penalty=1.0), ReplySettings(no_repeat_ngram_size=1)):
        assert other.reply(messages, settings) == chatbot.reply(messages, settings)
    for name, engine in ((trained, "ctranslate2"), (folder, "transformers")):
        with pytest.raises(ModelNotFound, match="CTranslate2"):
            Chatbot.from_pretrained(str(name), engine=engine)


def test_a_reply_goes_on_from_what_was_said_and_all_of_itself(chatbot):
    asked = []

    class Writer:
        reads_history = False

        def reply(self, messages, settings, on_text=None):
            asked.append(messages)
            return f"part {len(asked)}."

    conversation = Conversation(Writer(), "짧게")
    assert not conversation.has_replied
    conversation.say("Once upon", GREEDY)
    assert [conversation.more(GREEDY), conversation.more(GREEDY)] == ["part 2.", "part 3."]
    assert [messages[-1]["content"] for messages in asked] == [
        "Once upon",
        "Once upon part 1.",
        "Once upon part 1. part 2.",
    ]
    assert all(messages[0]["role"] == "system" and len(messages) == 2 for messages in asked)
    assert conversation.messages[1:] == [
        {"role": "user", "content": "Once upon"},
        {"role": "assistant", "content": "part 1. part 2. part 3."},
    ]
    monotonous = Conversation(Writer())
    monotonous.say("Once upon", GREEDY)
    monotonous.messages[-1]["content"] = f"part {len(asked) + 1}."
    assert monotonous.more(GREEDY) == monotonous.messages[-1]["content"]
    assert joined("吾輩は", "猫である。") == "吾輩は猫である。" and joined("나는", "간다") == "나는 간다"


def test_a_model_that_draws_by_its_own_settings_draws_unless_told_otherwise(trained):
    chatbot = Chatbot.from_pretrained(str(trained), device="cpu")
    question = [{"role": "user", "content": "따라 해 1 2"}]
    greedy = chatbot.reply(question, ReplySettings(max_new_tokens=12))
    own = chatbot.engine.own_search
    assert not ReplySettings().draws(own) and ReplySettings(temperature=0.5).draws(own)
    own.update(do_sample=True, temperature=50.0, top_p=1.0, top_k=0)
    drawn = {chatbot.reply(question, ReplySettings(max_new_tokens=12)) for _ in range(3)}
    assert len(drawn) == 3
    assert ReplySettings().draws(own) and not ReplySettings(temperature=0.0).draws(own)
    assert not ReplySettings(num_beams=2).draws(own)
    assert chatbot.reply(question, ReplySettings(temperature=0.0, max_new_tokens=12)) == greedy
