"""Replies that are pictures: in the terminal, in files, on the page, from the server and from the pipeline."""

import base64
import contextlib
import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from starlette.testclient import TestClient

from chatformer.chat.chatbot import Chatbot, Conversation
from chatformer.chat.half_blocks import Screen
from chatformer.chat.lines import write_reply
from chatformer.chat.media import MediaFolder, as_html, media_in
from chatformer.chat.serving.app import create_app
from chatformer.chat.terminal import talk
from chatformer.cli.main import main
from chatformer.configuration.replies import ChatSettings, ReplySettings, ServeSettings
from chatformer.pictures import in_words, pixels_of_text, text_of_pixels
from chatformer.pipeline_chatformer import Seq2SeqChatPipeline

RED, WHITE = (255, 0, 0), (255, 255, 255)
FLAG = text_of_pixels(np.array([[RED] * 3, [WHITE] * 3, [RED] * 3], dtype=np.uint8))


@pytest.fixture(scope="module")
def chatbot(drawer):
    return Chatbot.from_pretrained(str(drawer), device="cpu")


@pytest.fixture(scope="module")
def stripes(captions_file):
    with Image.open(captions_file.parent / "blue-stripes.png") as image:
        return np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image))[..., :3]


def test_a_model_draws_what_it_learnt_from_files(chatbot, stripes):
    reply = chatbot.reply([{"role": "user", "content": "blue stripes"}], ReplySettings())
    # Five bits of a colour.
    assert np.abs(pixels_of_text(reply).astype(int) - stripes).max() <= 255 / 31


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_a_terminal_shows_two_rows_a_line_as_they_come(capsys, size):
    console = Console(width=40, color_system="truecolor", force_terminal=True, legacy_windows=False)
    screen, text = Screen(console), f"여기: {FLAG} 좋죠?"
    for start in range(0, len(text), size):
        screen.write(text[start : start + size])
    screen.end()
    red_on_white, red = "\x1b[38;2;255;0;0;48;2;255;255;255m▀", "\x1b[38;2;255;0;0;49m▀"
    shown = capsys.readouterr().out
    assert shown.startswith("여기: \n\x1b[38;2;255;0;0;48;2;255;255;255m▀")
    assert shown.count("▀") == 6 and shown.count(red_on_white[:-1]) >= 1 and red[:-1] in shown
    assert shown.endswith("\n 좋죠?\n") and FLAG[0] not in shown


def test_without_colours_a_terminal_shows_shades(capsys):
    screen = Screen(Console(width=40, color_system=None))
    dark = text_of_pixels(np.zeros((2, 3, 3), dtype=np.uint8))
    screen.write(dark)
    screen.end()
    # Behind the name of the bot.
    assert capsys.readouterr().out == "\n███\n"


def test_a_chat_shows_and_saves(chatbot, tmp_path, monkeypatch, capsys):
    lines = iter(["blue stripes", "red square", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "7.png").touch()
    assert talk(lambda: Conversation(chatbot), ChatSettings(model="bot"), MediaFolder(tmp_path / "media")) == 0
    assert "saved as" in capsys.readouterr().out
    assert sorted(file.name for file in (tmp_path / "media").iterdir()) == ["7.png", "8.png", "9.png"]


class FakeTerminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("reply", "shown"),
    [
        ("두  줄", "두 줄\n"),
        ("", "\n"),
        (FLAG, "▀▀▀\n▀▀▀\n"),
        (f"여기:\n{FLAG} 좋죠?", "여기: \n▀▀▀\n▀▀▀\n 좋죠?\n"),
    ],
)
def test_a_line_for_a_person_has_pictures_and_one_for_a_program_letters(monkeypatch, reply, shown):
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal, pipe = FakeTerminal(), io.StringIO()
    write_reply(reply, terminal)
    write_reply(reply, pipe)
    assert re.sub("\x1b\\[[0-9;]*m", "", terminal.getvalue()) == shown
    assert pipe.getvalue() == f"{' '.join(reply.split())}\n"


def test_replies_to_a_pipe_are_drawn_on_a_terminal(drawer, environment):
    """`echo blue stripes | chatformer chat`, as typed."""
    main_end, terminal = os.openpty()
    command = [sys.executable, "-m", "chatformer.cli.main", "chat", str(drawer), "--device", "cpu"]
    env = {**environment, "TERM": "xterm-256color"}
    process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=terminal, stderr=subprocess.DEVNULL)
    process.stdin.write(b"blue stripes\n")
    process.stdin.close()
    os.close(terminal)
    shown = b""
    # At its end, Linux says that there is no other side.
    with contextlib.suppress(OSError):
        while piece := os.read(main_end, 10_000):
            shown += piece
    os.close(main_end)
    assert process.wait(timeout=100) == 0
    assert shown.decode().count("▀") == 18 and media_in(shown.decode()) == []


def test_generate_writes_letters_and_saves_pictures_in_the_order_of_lines(drawer, stripes, tmp_path, capsys):
    (tmp_path / "wishes.txt").write_text("red square\n\nblue stripes\n", "utf-8")
    arguments = ["--data", str(tmp_path / "wishes.txt"), "--save-media", str(tmp_path / "media"), "--device", "cpu"]
    capsys.readouterr()
    assert main(["generate", str(drawer), *arguments]) == 0
    square, blank, drawn = capsys.readouterr().out.split("\n")[:3]
    assert blank == "" and len(media_in(square)) == 1 and pixels_of_text(drawn).shape == stripes.shape
    with Image.open(tmp_path / "media" / "2.png") as image:
        assert (np.asarray(image)[::8, ::8] == pixels_of_text(drawn)).all() and image.size == (48, 48)


def test_the_page_gets_pictures_and_no_markup_of_others():
    shown = as_html(f"<b>{FLAG}&")
    assert shown.startswith('&lt;b&gt;<img src="data:image/png;base64,') and shown.endswith('height="24">&amp;')
    assert in_words(f"<b>{FLAG}") == "<b>[a picture of 3 x 3]"


def test_a_server_gives_letters_and_pngs_where_they_are_asked_for(chatbot):
    with TestClient(create_app(chatbot, ServeSettings(model="bot"))) as client:

        def ask(**changes):
            body = {"model": "bot", "messages": [{"role": "user", "content": "blue stripes"}], **changes}
            return client.post("/v1/chat/completions", json=body)

        plain = ask().json()["choices"][0]["message"]
        drawn = ask(modalities=["text", "image"]).json()["choices"][0]["message"]
        assert "images" not in plain and plain["content"] == drawn["content"]
        (image,) = drawn["images"]
        data = base64.b64decode(image["image_url"]["url"].removeprefix("data:image/png;base64,"))
        assert (np.asarray(Image.open(io.BytesIO(data)))[::8, ::8] == pixels_of_text(plain["content"])).all()
        refusal = ask(modalities=["text", "image"], stream=True)
        assert refusal.status_code == 400 and "stream" in refusal.json()["error"]["message"]


def test_the_pipeline_gives_images(chatbot):
    chat = Seq2SeqChatPipeline(model=chatbot.engine.model, tokenizer=chatbot.tokenizer, device="cpu")
    answer = chat("blue stripes")
    (image,) = answer["images"]
    assert (np.asarray(image) == pixels_of_text(answer["generated_text"])).all()


def test_an_evaluation_compares_pictures(drawer, tmp_path, capsys):
    file = tmp_path / "evaluation.json"
    assert main(["evaluate", str(drawer), "--device", "cpu", "--output-file", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "8 pictures" in shown and "[a picture of 6 x 6]" in shown
    pictures = json.loads(file.read_text("utf-8"))["pictures"]
    model, usual = pictures["figures"]["model"], pictures["figures"]["usual picture"]
    assert model["pixel_accuracy"] > usual["pixel_accuracy"] and model["copied"] >= model["exact"] > 80
    assert pictures["completed_pixels"] > 80 and 0 < pictures["bits_per_pixel"] < 1
