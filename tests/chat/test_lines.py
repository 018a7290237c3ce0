import gzip
import io
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from chatformer.chat.chatbot import Chatbot
from chatformer.chat.lines import LINES_AT_ONCE, replies
from chatformer.cli.main import main
from chatformer.configuration.replies import ReplySettings
from chatformer.conversation import encode_conversation, turn

LINES = ["따라 해 1 2", "again!", "", "처음 보는 말 🤖", "따라 해 7 3", "   ", "hello there, my old friend!"]


@pytest.fixture(scope="module")
def chatbot(trained):
    torch.set_num_threads(1)
    return Chatbot.from_pretrained(str(trained), device="cpu")


@pytest.fixture(scope="module")
def lines_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("lines") / "lines.txt"
    # As an editor of Windows writes it.
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(LINES).encode())
    return file


def one_by_one(chatbot, settings, lines=LINES):
    return [" ".join(chatbot.reply([turn("user", line)], settings).split()) if line.strip() else "" for line in lines]


@pytest.mark.parametrize(
    "settings", [{}, {"num_beams": 3, "length_penalty": 2.0}, {"no_repeat_ngram_size": 1}], ids=repr
)
@pytest.mark.parametrize("batch_tokens", [1, 30, 4000])
def test_a_line_comes_out_for_each_that_goes_in(chatbot, trained, lines_file, capsys, settings, batch_tokens):
    options = [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    command = [str(trained), "--data", str(lines_file), "--device", "cpu", "--batch-tokens", str(batch_tokens)]
    assert main(["generate", *command, *options]) == 0
    captured = capsys.readouterr()
    assert captured.out.split("\n") == [*one_by_one(chatbot, ReplySettings(**settings)), ""]


def test_a_length_penalty_makes_a_difference(chatbot):
    long, short = (
        [chatbot.reply([turn("user", line)], ReplySettings(num_beams=4, length_penalty=penalty)) for line in LINES]
        for penalty in (5.0, -5.0)
    )
    assert sum(map(len, long)) > sum(map(len, short))


def test_more_lines_than_are_read_at_once_keep_their_order(chatbot, trained, monkeypatch, tmp_path, lines_file):
    monkeypatch.setattr("chatformer.chat.lines.LINES_AT_ONCE", 3)
    packed, file = tmp_path / "lines.txt.gz", tmp_path / "replies.txt"
    packed.write_bytes(gzip.compress(lines_file.read_bytes()))
    assert main(["generate", str(trained), "--data", str(packed), "--output-file", str(file), "--device", "cpu"]) == 0
    assert file.read_text("utf-8").split("\n") == [*one_by_one(chatbot, ReplySettings()), ""]
    assert sorted(tmp_path.iterdir()) == [packed, file]


def test_lines_come_through_a_pipe_and_a_system_message_stands_before_them(chatbot, trained, environment):
    command = [sys.executable, "-m", "chatformer.cli.main", "generate", str(trained), "--device", "cpu"]
    process = subprocess.run(
        [*command, "--system", "짧게"],
        **{"input": "안녕\nhello\n", "env": environment, "capture_output": True, "text": True, "encoding": "utf-8"},
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    found, _ = replies(
        chatbot,
        [[turn("system", "짧게"), turn("user", text)] for text in ("안녕", "hello")],
        ReplySettings().search(),
        4000,
        lambda count: None,
    )
    assert process.stdout.split("\n") == [*(" ".join(text.split()) for text in found), ""]


def test_a_line_that_is_too_long_is_read_without_its_beginning_and_told_of(chatbot, trained, tmp_path, capsys):
    file = tmp_path / "lines.txt"
    file.write_text("x y " * 200 + "\nhello\n", "utf-8")
    assert main(["generate", str(trained), "--data", str(file), "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    assert captured.out.split("\n") == [*one_by_one(chatbot, ReplySettings(), ["x y " * 200, "hello"]), ""]
    assert "note: 1 line of more than the 40 tokens" in captured.err


def test_what_is_drawn_is_repeated_with_its_seed(trained, lines_file, capsys):
    def drawn(seed):
        flags = ["--temperature", "5", "--top-k", "0", "--max-new-tokens", "8", "--seed", str(seed), "--device", "cpu"]
        assert main(["generate", str(trained), "--data", str(lines_file), *flags]) == 0
        return capsys.readouterr().out

    assert drawn(1) == drawn(1) != drawn(2)


def test_ctranslate2_replies_alike_and_repeats_what_it_draws(trained, lines_file, tmp_path, capsys):
    pytest.importorskip("ctranslate2")
    folder = tmp_path / "ctranslate2"
    assert main(["export", str(trained), "--to", "ctranslate2", "--output-dir", str(folder)]) == 0
    capsys.readouterr()

    def generated(model, *arguments):
        assert main(["generate", str(model), "--data", str(lines_file), "--device", "cpu", *arguments]) == 0
        return capsys.readouterr().out

    assert generated(folder, "--engine", "ctranslate2") == generated(trained)
    drawing = ["--engine", "ctranslate2", "--temperature", "5", "--max-new-tokens", "8", "--seed"]
    assert generated(folder, *drawing, "1") == generated(folder, *drawing, "1") != generated(folder, *drawing, "2")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--data", "missing.txt"], "--data missing.txt cannot be read (No such file or directory)"),
        (["--data", "latin.txt"], "line 2 of latin.txt must be UTF-8, but it is not"),
        (["--data", "half.txt.gz"], "half.txt.gz cannot be read: Compressed file ended"),
        (["--data", "good.txt", "--output-file", "."], "--output-file . is a folder"),
        (["--data", "good.txt", "--device", "gpu"], "--device gpu cannot be used"),
        (
            ["--data", "good.txt", "--output-file", "missing/replies.txt"],
            "There is no folder missing",
        ),
        ([], "there is nothing to reply to. Give --data FILE, or lines through a pipe."),
    ],
)
def test_what_cannot_be_read_or_written_is_told_and_nothing_is_left(
    trained, tmp_path, capsys, monkeypatch, arguments, told
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.txt").write_text("hello\n", "utf-8")
    (tmp_path / "latin.txt").write_bytes(b"hello\nna\xefve\n")
    (tmp_path / "half.txt.gz").write_bytes(gzip.compress(b"hello\n" * 10_000)[:50])
    monkeypatch.setattr(sys, "stdin", TerminalInput())
    output = [] if "--output-file" in arguments else ["--output-file", "replies.txt"]
    (tmp_path / "replies.txt").write_text("the replies of yesterday", "utf-8")
    assert main(["generate", str(trained), "--device", "cpu", *arguments, *output]) == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].startswith("error: ") and told in captured.err
    assert (tmp_path / "replies.txt").read_text("utf-8") == "the replies of yesterday"
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("seed", ["-1", str(2**32)])
def test_a_seed_that_cannot_be_is_told_at_once(capsys, seed):
    assert main(["generate", "nowhere", "--seed", seed]) == 2
    assert capsys.readouterr().err == f"error: --seed must be at least 0 and less than 2^32, but it is {seed}.\n"


def test_lines_at_the_end_are_looked_at_before_the_first_reply(trained, tmp_path, capsys, monkeypatch):
    def load(settings):
        raise AssertionError("The model is not to be loaded.")

    monkeypatch.setattr("chatformer.chat.lines.load_chatbot", load)
    file = tmp_path / "lines.txt"
    file.write_bytes(b"hello\n" * 50_000 + b"\xff\n")
    assert main(["generate", str(trained), "--data", str(file)]) == 2
    assert "line 50001 of" in capsys.readouterr().err


def test_replies_go_where_a_link_leads_and_into_a_device_as_it_is(trained, lines_file, tmp_path):
    file, link, pipe = tmp_path / "replies.txt", tmp_path / "link.txt", tmp_path / "pipe"
    link.symlink_to(file)
    command = [str(trained), "--data", str(lines_file), "--device", "cpu", "--output-file"]
    assert main(["generate", *command, str(link)]) == 0
    assert link.is_symlink() and file.read_text("utf-8").count("\n") == len(LINES)
    os.mkfifo(pipe)
    found = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_text("utf-8")))
    reader.start()
    assert main(["generate", *command, str(pipe)]) == 0
    reader.join()
    assert found == [file.read_text("utf-8")] and pipe.is_fifo()


def test_without_enough_memory_fewer_are_read_at_a_time(chatbot, monkeypatch):
    sizes, generate = [], chatbot.engine.generate

    def generate_few(sources, search):
        sizes.append(len(sources))
        if len(sources) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return generate(sources, search)

    monkeypatch.setattr(chatbot.engine, "generate", generate_few)
    asked = [[turn("user", line)] for line in LINES if line.strip()]
    search = ReplySettings().search()
    found, _ = replies(chatbot, asked, search, 4000, lambda count: None)
    ids = [generate([encode_conversation(chatbot.tokenizer, each, 40)], search)[0] for each in asked]
    assert found == chatbot.tokenizer.batch_decode(ids, skip_special_tokens=True)
    assert sizes[0] == len(asked) and max(sizes[-2:]) <= 2


class TerminalInput(io.StringIO):
    def isatty(self):
        return True


def test_ctrl_c_leaves_nothing_half_written(trained, tmp_path, environment):
    output = tmp_path / "replies.txt"
    command = [sys.executable, "-m", "chatformer.cli.main", "generate", str(trained), "--device", "cpu"]
    process = subprocess.Popen(
        [*command, "--output-file", str(output), "--max-new-tokens", "2"],
        env=environment,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # The tests may run in the background, where it is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    # It never comes to the end, however late it is interrupted: the pipe stays open. All of it fits into the pipe.
    process.stdin.write(b"hi\n" * (2 * LINES_AT_ONCE))
    process.stdin.flush()
    until = time.monotonic() + 400
    while not any(os.path.getsize(each) for each in tmp_path.glob(".replies.txt.*")):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=150)[1].decode()
    assert process.returncode == 130
    assert "interrupted" in told and "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_has_had_enough_ends_it_in_peace(trained, tmp_path, environment):
    file = tmp_path / "lines.txt"
    file.write_text("hello\n" * 30_000, "utf-8")
    command = f"'{sys.executable}' -m chatformer.cli.main generate '{trained}' --data '{file}' --device cpu | head -1"
    process = subprocess.run(command, shell=True, env=environment, capture_output=True)
    assert process.stdout.count(b"\n") == 1
    assert b"Traceback" not in process.stderr and b"Exception" not in process.stderr
