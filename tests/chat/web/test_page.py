"""The page in a real browser: what a person does on it, and that nothing outside this machine is asked."""

import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import unicodedata

import numpy as np
import pytest
import torch
from gradio_client import Client

from chatformer.chat.chatbot import Chatbot
from chatformer.chat.playing import PACKAGES
from chatformer.chat.web.page import Page
from chatformer.chat.web.serving import page_of
from chatformer.chat.web.words import KOREAN
from chatformer.configuration.replies import ReplySettings, WebSettings
from chatformer.pictures import text_of_pixels
from chatformer.storage.run_folder import Records

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EXAMPLE = "따라 해 2 4"
SCRIPT = "<script>document.title='broken'</script><b>bold</b> **stars** 😀"


class Endless:
    """A replier that goes on until it is stopped."""

    reads_history = True

    def __init__(self):
        self.is_stopped = False

    def reply(self, messages, settings, on_text=None):
        try:
            for _ in range(1000):
                on_text("word ")
                time.sleep(0.25)
        except Exception:
            self.is_stopped = True
            raise
        return "word " * 1000


class Painter:
    """A replier that draws a red picture row by row, and waits for a sign before the last row."""

    reads_history = True

    def __init__(self):
        self.picture = text_of_pixels(np.full((3, 3, 3), (255, 0, 0), dtype=np.uint8))
        self.may_end = threading.Event()

    def reply(self, messages, settings, on_text=None):
        for number in range(3):
            if number == 2:
                self.may_end.wait(60)
            # Its number and its pixels.
            on_text(self.picture[4 * number : 4 * number + 4])
        return self.picture


class Musician:
    """A replier that writes a tune."""

    reads_history = True

    def reply(self, messages, settings, on_text=None):
        tune = "[M:4/4][L:1/8][K:A] A4 a4 | c8 |]"
        on_text(tune)
        return tune


@pytest.fixture(scope="module")
def chatbot(trained):
    torch.set_num_threads(1)
    return Chatbot.from_pretrained(str(trained), device="cpu")


@pytest.fixture(scope="module")
def addresses():
    """Return the list of the addresses that this process connects to, by whatever library."""
    connected, connect = [], socket.socket.connect

    def watched(self, address):
        connected.append(address)
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", watched)
        yield connected


@pytest.fixture(scope="module")
def serve(addresses):
    """Return a function that serves a page and returns its address."""
    served = []

    def run(page):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        served.append(page.launch("127.0.0.1", port))
        return f"http://127.0.0.1:{port}/"

    yield run
    for blocks in served:
        blocks.close(verbose=False)


@pytest.fixture(scope="module")
def address(serve, chatbot, trained):
    log = Records.read(trained).log
    return serve(Page(chatbot=chatbot, title="<i>digits</i>", examples=[EXAMPLE], log=log))


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs Chromium, as `apt install chromium` brings it")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def tab(browser, address):
    """Return a function that opens the page; at the end, it has asked no other machine and reported no error."""
    asked, errors, contexts = [], [], []

    def opened(url=address, **options):
        contexts.append(browser.new_context(**options))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(60_000)
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(url)
        tab.wait_for_selector("#say textarea")
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert [url for url in asked if not re.match(r"(http://127\.0\.0\.1:|data:|blob:)", url)] == []
    assert errors == []


def say(tab, text):
    tab.fill("#say textarea", text)
    tab.press("#say textarea", "Enter")


def wait_for_reply(tab, text, number=1):
    tab.wait_for_function(
        "([text, number]) => { const all = document.querySelectorAll('[data-testid=bot]');"
        " return all.length >= number && all[number - 1].innerText.trim() === text.trim() }",
        arg=[text, number],
    )


def reply_of(chatbot, *texts, **settings):
    roles = ("user", "assistant")
    messages = [{"role": roles[number % 2], "content": text} for number, text in enumerate(texts)]
    return chatbot.reply(messages, ReplySettings(**settings))


def test_a_conversation_and_every_view_of_it(tab, chatbot):
    page = tab(locale="ko-KR", viewport={"width": 390, "height": 844})
    # The browser's language, and the title as text.
    page.wait_for_selector("text=마지막 답의 속 들여다보기")
    assert page.inner_text("h1") == "<i>digits</i>"
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    first = reply_of(chatbot, EXAMPLE)
    page.click(f"#conversation button:has-text('{EXAMPLE}')")
    wait_for_reply(page, first)
    # The attention is open at first; its axes are the tokens.
    page.wait_for_selector("#inside .heatmaplayer image, #inside .heatmaplayer path", state="attached")
    assert "<|end|>" in page.text_content("#inside .xaxislayer-above")
    for view, mark in (
        ("토큰", "text=모델이 읽은 것"),
        ("다음 토큰", "text=▸"),
        ("빔", "text=#1"),
        ("마스크", "text=디코더: 나중에 오는 것을 가립니다"),
        ("위치", "text=차원"),
        ("학습", "text=학습률"),
        ("어텐션", "text=<|end|>"),
    ):
        page.click(f"#view label:has(span:text-is('{view}'))")
        page.wait_for_selector(f"#inside >> {mark}", state="attached")
    page.click("text=특수 토큰 보기")
    page.wait_for_function("!document.querySelector('#inside').innerText.includes('<|end|>')")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    # What was said before is read.
    say(page, "again!")
    wait_for_reply(page, reply_of(chatbot, EXAMPLE, first, "again!"), 2)
    # Taken back, and said in other words.
    page.click(
        "button[aria-label='Undo'], button[title='Undo'], button[aria-label='실행 취소'], button[title='실행 취소']"
    )
    page.wait_for_function("document.querySelector('#say textarea').value === 'again!'")
    page.reload()
    page.wait_for_selector("#say textarea")
    say(page, "again!")
    wait_for_reply(page, reply_of(chatbot, "again!"))


def test_settings_change_the_reply(tab, chatbot):
    page = tab(locale="en-US", viewport={"width": 1280, "height": 900})
    page.click("text=Settings")
    page.click("#search label:has-text('Beams')")
    say(page, "처음 보는 말")
    wait_for_reply(page, reply_of(chatbot, "처음 보는 말", num_beams=4))
    # The same question once more, by other settings.
    page.click("#search label:has-text('Greedy')")
    page.fill("input[aria-label^='number input for Longest reply']", "2")
    page.click("button[aria-label='Retry'], button[title='Retry']")
    wait_for_reply(page, reply_of(chatbot, "처음 보는 말", max_new_tokens=2))
    is_dark = "document.body.classList.contains('dark')"
    before = page.evaluate(is_dark)
    page.click("#theme")
    assert page.evaluate(is_dark) is not before


def test_two_tabs_do_not_mix_and_text_stays_text(tab, chatbot):
    one, other = tab(), tab()
    long = "따라 해 " + "1 " * 5000
    say(one, SCRIPT)
    say(other, long)
    wait_for_reply(one, reply_of(chatbot, SCRIPT))
    wait_for_reply(other, reply_of(chatbot, long))
    said = one.inner_text("[data-testid=user]")
    assert said.strip() == SCRIPT and one.title() != "broken"
    assert len(other.inner_text("[data-testid=user]")) >= 10_000


def test_a_reply_streams_and_can_be_stopped(tab, serve):
    endless = Endless()
    page = tab(serve(Page(chatbot=endless, title="endless", examples=[])))
    say(page, "Hello!")
    page.wait_for_function("(document.querySelector('[data-testid=bot]')?.innerText ?? '').includes('word word')")
    page.click("#say .stop-button")
    for _ in range(100):
        if endless.is_stopped:
            break
        page.wait_for_timeout(100)
    assert endless.is_stopped
    # A page without a model on this machine says why it shows no inside.
    assert "elsewhere" in page.input_value("#note textarea")


def test_a_page_of_a_running_server_has_no_inside_and_says_so(tab, serve, trained, environment, chatbot):
    command = [sys.executable, "-m", "chatformer.cli.main", "serve", str(trained), "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        address = re.search(r"http://\S+", process.stdout.readline())[0]
        page = tab(serve(page_of(WebSettings(url=address))), locale="ko-KR", viewport={"width": 390, "height": 844})
        assert page.inner_text("h1") == trained.name
        first = reply_of(chatbot, EXAMPLE)
        say(page, EXAMPLE)
        wait_for_reply(page, first)
        say(page, "again!")
        wait_for_reply(page, reply_of(chatbot, EXAMPLE, first, "again!"), 2)
        for view in ("토큰", "어텐션", "빔"):
            page.click(f"#view label:has(span:text-is('{view}'))")
            page.wait_for_function(
                "words => document.querySelector('#note textarea').value === words", arg=KOREAN["no_inside"]
            )
        # Only what the protocol has a place for can be chosen.
        page.click("text=Settings")
        page.wait_for_selector("#search")
        assert page.is_hidden(f"text={KOREAN['num_beams']}")
        assert page.is_hidden(f"text={KOREAN['beams_search']}")
        # A server that has gone is an error in words, and the message can be sent once more.
        process.terminate()
        assert process.wait(timeout=60) == 0
        say(page, "고마워")
        page.wait_for_selector("text=cannot be reached")
        page.wait_for_selector("#say .submit-button")
        assert page.input_value("#say textarea") == "고마워"
        assert page.locator("[data-testid=user]").count() == 2
    finally:
        process.kill()
        process.communicate()


def test_a_picture_appears_row_by_row(tab, serve):
    painter = Painter()
    page = tab(serve(Page(chatbot=painter, title="painter", examples=[])))
    say(page, "red")
    is_drawn = "rows => document.querySelector('[data-testid=bot] img')?.naturalHeight === 8 * rows"
    page.wait_for_function(is_drawn, arg=2)
    painter.may_end.set()
    page.wait_for_function(is_drawn, arg=3)


def test_a_tune_is_played_and_drawn_when_it_is_complete(tab, serve):
    for package in PACKAGES:
        pytest.importorskip(package)
    page = tab(serve(Page(chatbot=Musician(), title="musician", examples=[])))
    say(page, "a tune")
    # Two bars of 1.6 seconds, and a second in which the last note fades.
    page.wait_for_function("Math.abs(document.querySelector('[data-testid=bot] audio')?.duration - 4.2) < 0.2")
    page.wait_for_function("document.querySelector('[data-testid=bot] img')?.naturalWidth > 100")
    assert "c8 |]" in page.inner_text("[data-testid=bot]")


def test_the_api_of_the_page_gives_the_same_text_and_asks_no_other_machine(address, chatbot, addresses):
    client = Client(address, verbose=False, analytics_enabled=False)
    decomposed = unicodedata.normalize("NFD", EXAMPLE) + "\r\n"
    _, shown = client.predict(decomposed, api_name="/chat")
    assert shown[-1]["content"][0]["text"] == reply_of(chatbot, EXAMPLE)
    with pytest.raises(Exception, match="no text"):
        client.predict(" \u3000", api_name="/chat")
    hosts = {at[0] for at in addresses if isinstance(at, tuple)}
    assert hosts and hosts <= {"127.0.0.1", "::1", "localhost"}
