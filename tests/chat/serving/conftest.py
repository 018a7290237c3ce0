"""Servers to ask: the trained model on both engines, and one that replies slowly."""

import contextlib
import json
import socket
import threading
import time

import httpx2
import pytest
import torch
from transformers import GenerationConfig

from chatformer.chat.chatbot import Chatbot
from chatformer.chat.serving.app import create_app
from chatformer.chat.serving.server import server_of
from chatformer.configuration.replies import ReplySettings, ServeSettings


def identified(answer):
    """Every answer that any test gets has an id."""
    assert answer.headers["x-request-id"], answer.request


class Server:
    """An app that listens at a free port, in a thread."""

    def __init__(self, chatbot, **settings):
        self.chatbot = chatbot
        served = ServeSettings(model="bot", **{"grace_seconds": 5, **settings})
        self.app = create_app(chatbot, served)
        self.service = self.app.state.service
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.uvicorn = server_of(self.app, served)
        self.thread = threading.Thread(target=self.uvicorn.run, kwargs={"sockets": [self.listener]}, daemon=True)
        self.thread.start()
        headers = {"Authorization": f"Bearer {settings['api_key']}".encode()} if settings.get("api_key") else {}
        hooks = {"response": [identified]}
        self.client = httpx2.Client(base_url=self.url, headers=headers, timeout=60, event_hooks=hooks)

    def ask(self, content="따라 해 1 2", **changes):
        """Return the answer to a request; a change to `...` leaves the field out."""
        body = {"model": "bot", "messages": [{"role": "user", "content": content}]} | changes
        body = {name: value for name, value in body.items() if value is not Ellipsis}
        return self.client.post("/v1/chat/completions", json=body)

    def events(self, **changes):
        """Return what the events of a streamed answer carry, without the last, which must be [DONE]."""
        answer = self.ask(stream=True, **changes)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        *events, last, rest = answer.text.split("\n\n")
        assert (last, rest) == ("data: [DONE]", "")
        return [json.loads(event.removeprefix("data: ")) for event in events]

    def close(self):
        self.client.close()
        self.uvicorn.should_exit = True
        self.thread.join(timeout=30)
        assert not self.thread.is_alive()


@pytest.fixture(scope="session")
def serve():
    """Return a context manager that runs a server for a chatbot; its settings are those of `chatformer serve`."""

    @contextlib.contextmanager
    def running(chatbot, **settings):
        server = Server(chatbot, **settings)
        try:
            yield server
        finally:
            server.close()

    return running


@pytest.fixture(scope="session")
def chatbot(trained):
    torch.set_num_threads(1)
    return Chatbot.from_pretrained(str(trained), device="cpu")


@pytest.fixture(scope="session")
def exported(trained, tmp_path_factory):
    """Return the folder of the trained model for CTranslate2."""
    pytest.importorskip("ctranslate2")
    from chatformer.cli.main import main

    folder = tmp_path_factory.mktemp("exported") / "ctranslate2"
    assert main(["export", str(trained), "--to", "ctranslate2", "--output-dir", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def fast_chatbot(exported):
    return Chatbot.from_pretrained(str(exported), engine="ctranslate2", device="cpu", num_parallel=2)


VARIED = ReplySettings(no_repeat_ngram_size=1)
"""Without it, a model of random weights says the same again and again."""


@pytest.fixture(scope="session")
def varied_chatbot(tokenizer, tmp_path_factory):
    """Return a chatbot on CTranslate2 whose replies, by the settings `VARIED`, differ with every question."""
    pytest.importorskip("ctranslate2")
    from chatformer import ChatformerConfig, ChatformerForConditionalGeneration
    from chatformer.hub.formats.ctranslate2_format import write_ctranslate2

    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    config = ChatformerConfig(
        d_model=64,
        d_ff=64,
        num_heads=4,
        encoder_layers=2,
        decoder_layers=2,
        vocab_size=len(tokenizer),
        decoder_start_token_id=tokenizer.bos_token_id,
        **{name: getattr(tokenizer, name) for name in names},
    )
    torch.manual_seed(0)
    model = ChatformerForConditionalGeneration(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                # Large weights make of a small difference a large one.
                weight.normal_(std=0.3)
        # Bytes would often be no text.
        model.lm_head.weight[[row for token, row in tokenizer.get_vocab().items() if token.startswith("<")]] = 0
    model.generation_config.max_new_tokens = 16
    folder = tmp_path_factory.mktemp("varied")
    write_ctranslate2(model, tokenizer, folder, quantization="float32")
    for part in (tokenizer, model.generation_config):
        part.save_pretrained(folder)
    return Chatbot.from_pretrained(str(folder), engine="ctranslate2", device="cpu", num_parallel=2)


@pytest.fixture(scope="session")
def varied_server(serve, varied_chatbot):
    with serve(varied_chatbot, reply=VARIED) as running:
        yield running


@pytest.fixture(scope="session")
def server(serve, chatbot):
    with serve(chatbot) as running:
        yield running


@pytest.fixture(scope="session")
def fast_server(serve, fast_chatbot):
    with serve(fast_chatbot) as running:
        yield running


@pytest.fixture(params=["server", "fast_server"])
def any_server(request):
    return request.getfixturevalue(request.param)


class SlowEngine:
    """Replies with the source again and again, a token of each row at a time, until told to stop."""

    num_parallel = 1
    keeps_seeds = True
    max_new_tokens = 100_000
    own_search = GenerationConfig()

    def __init__(self, seconds_per_token=0.01):
        self.seconds_per_token = seconds_per_token
        self.batches = []
        self.seeds = []
        self.is_broken = lambda source: False

    def generate(self, sources, search, on_token=None):
        self.batches.append([list(source) for source in sources])
        if any(self.is_broken(source) for source in sources):
            raise RuntimeError("this source cannot be read")
        replies = [[] for _ in sources]
        running = set(range(len(sources)))
        while running:
            time.sleep(self.seconds_per_token)
            for row in sorted(running):
                token = sources[row][len(replies[row]) % len(sources[row])]
                replies[row].append(token)
                if on_token(row, token):
                    running.discard(row)
        return replies

    def set_seed(self, seed):
        self.seeds.append(seed)


@pytest.fixture
def slow(chatbot):
    """Return a chatbot whose replies take as long as they may."""

    class WithoutEnd:
        """The tokenizer, without the end token, which is in every source."""

        eos_token_id = None

        def __getattr__(self, name):
            return getattr(chatbot.tokenizer, name)

        def __call__(self, *arguments, **options):
            return chatbot.tokenizer(*arguments, **options)

    return Chatbot(SlowEngine(), WithoutEnd(), chatbot.folder)
