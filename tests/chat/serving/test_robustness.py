"""What clients do wrong, and what load does, hurts no neighbour."""

import asyncio
import itertools
import json
import random
import re
import socket
import threading
import time

import httpx2
import pytest

from chatformer.chat.chatbot import Chatbot

PATH = "/v1/chat/completions"


def raw_request(server, buffer_size=None, **changes):
    """Return a connection on which a request has been sent."""
    body = {"model": "bot", "messages": [{"role": "user", "content": "따라 해 1 2"}]} | changes
    content = json.dumps(body).encode()
    connection = socket.socket()
    connection.settimeout(20)
    if buffer_size is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_size)
    connection.connect(("127.0.0.1", server.port))
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    connection.sendall(head.encode() + content)
    return connection


def eventually(condition, seconds):
    """True as soon as the condition is, within some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_frees_its_place_within_a_second(serve, slow, stream):
    with serve(slow, max_batch_size=1) as server:
        batches = server.service.batches
        running = raw_request(server, stream=stream)
        assert eventually(lambda: batches.num_running == 1, 10)
        waiting = raw_request(server, stream=stream)
        assert eventually(lambda: batches.num_waiting == 1, 10)
        waiting.close()
        assert eventually(lambda: batches.num_waiting == 0, 1)
        running.close()
        assert eventually(lambda: batches.num_running == 0, 1)
        # The figures are written a moment after the place is free.
        assert eventually(lambda: "chatformer_hang_ups_total 2.0" in server.client.get("/metrics").text, 5)
        assert server.ask(max_tokens=2).status_code == 200


@pytest.mark.parametrize("engine", ["server", "fast_server"])
def test_a_neighbour_in_the_same_batch_stays_when_a_client_hangs_up(request, engine):
    server = request.getfixturevalue(engine)
    expected = server.ask("따라 해 7 3").json()["choices"]
    for _ in range(5):
        gone = [raw_request(server, stream=True) for _ in range(3)]
        with httpx2.Client(base_url=server.url, timeout=30) as client:
            body = {"model": "bot", "messages": [{"role": "user", "content": "따라 해 7 3"}]}
            for connection in gone:
                connection.close()
            assert client.post(PATH, json=body).json()["choices"] == expected
    assert eventually(lambda: server.service.batches.num_running == 0, 5)


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(serve, slow):
    with serve(slow, max_batch_size=1, max_waiting=2) as server:
        connections = [raw_request(server)]
        assert eventually(lambda: server.service.batches.num_running == 1, 10)
        connections += [raw_request(server) for _ in range(2)]
        assert eventually(lambda: server.service.batches.num_waiting == 2, 10)
        began = time.monotonic()
        for stream in (False, True):
            answer = server.ask(stream=stream)
            assert (answer.status_code, answer.json()["error"]["type"]) == (429, "rate_limit_error")
            assert int(answer.headers["retry-after"]) >= 1
        assert time.monotonic() - began < 2
        assert server.client.get("/health").status_code == 200
        for connection in connections:
            connection.close()
        assert eventually(lambda: server.ask(max_tokens=1).status_code == 200, 5)


def test_a_slow_reader_and_an_unfinished_request_hold_up_no_other(serve, slow):
    slow.engine.seconds_per_token = 0.0005
    with serve(slow, max_batch_size=1) as server:

        def num_answered():
            figures = server.client.get("/metrics").text
            return float(re.search(r"^chatformer_request_seconds_count (.*)$", figures, re.MULTILINE)[1])

        # What is not read must find no room in the system's buffers, which grow to megabytes.
        server.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        reader, leaver = (raw_request(server, buffer_size=4096, stream=True, max_tokens=600) for _ in range(2))
        writer = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        writer.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
        expected = server.ask(max_tokens=600).json()["choices"][0]["message"]["content"]
        # The replies of the two are computed, and have left their places; their answers wait for them.
        assert eventually(lambda: server.service.batches.num_running == 0, 20)
        assert eventually(lambda: num_answered() == 1, 5)
        for connection in (leaver, writer):
            connection.close()
        assert eventually(lambda: num_answered() == 2, 5)
        received = b""
        while not received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
            received += reader.recv(2**16)
        events = [json.loads(event) for event in re.findall(rb"^data: (\{.*\})$", received, re.MULTILINE)]
        assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == expected
        reader.close()
        # A client has its last byte a moment before the server has counted the answer.
        assert eventually(lambda: num_answered() == 3, 5)


def test_a_conversation_of_thousands_of_turns_is_cut_and_not_a_burden(server):
    pairs = [
        [{"role": "user", "content": f"따라 해 {number}"}, {"role": "assistant", "content": "네"}]
        for number in range(4000)
    ]
    messages = [*itertools.chain(*pairs), {"role": "user", "content": "again!"}]
    began = time.monotonic()
    answer = server.ask(messages=messages)
    assert answer.status_code == 200 and time.monotonic() - began < 10
    assert answer.json()["usage"]["prompt_tokens"] <= server.chatbot.max_source_tokens
    assert answer.json()["choices"] == server.ask(messages=messages[-21:]).json()["choices"]
    # Nothing says that a user waits for the reply.
    alone = server.ask("again!").json()["usage"]["prompt_tokens"]
    two = [{"role": "user", "content": "다시 " * 50}, {"role": "user", "content": "again!"}]
    assert server.ask(messages=two).json()["usage"]["prompt_tokens"] == alone


def mangled(chance):
    """Return the bytes of a request that is mostly wrong, and of one kind of wrong in particular."""
    odd = [None, True, -1, 1.5, 1e308, 2**70, "", "x" * 300, "\ud800", "\u0000", [], {}, [[]], {"a": {}}, "안녕"]
    fields = [
        "model",
        "messages",
        "stream",
        "stop",
        "n",
        "temperature",
        "top_p",
        "max_tokens",
        "seed",
        "stream_options",
    ]
    body = {"model": "bot", "messages": [{"role": "user", "content": "안녕"}], "max_tokens": 2}
    for _ in range(chance.randrange(1, 4)):
        body[chance.choice(fields)] = chance.choice(odd)
    if chance.random() < 0.3:
        body["messages"] = [{chance.choice(["role", "content", "x"]): chance.choice(odd)} for _ in range(2)]
    if chance.random() < 0.3:
        body["messages"] = [{"role": "user", "content": chance.choice(odd)}]
    content = json.dumps(body).encode()
    if chance.random() < 0.3:
        cut = chance.randrange(len(content))
        content = content[:cut] + bytes(chance.randrange(256) for _ in range(3)) + content[cut + chance.randrange(5) :]
    return content


@pytest.mark.parametrize("num_requests", [150, pytest.param(1000, marks=pytest.mark.slow)])
def test_fuzzed_requests_get_their_4xx_and_hurt_no_neighbour(fast_server, num_requests):
    chance, headers = random.Random(num_requests), {"Content-Type": "application/json"}
    expected = fast_server.ask("따라 해 7 3").json()["choices"]
    neighbours, is_over = [], threading.Event()

    def neighbour():
        with httpx2.Client(base_url=fast_server.url, timeout=30) as client:
            body = {"model": "bot", "messages": [{"role": "user", "content": "따라 해 7 3"}]}
            while not is_over.is_set():
                neighbours.append(client.post(PATH, json=body).json()["choices"])

    thread = threading.Thread(target=neighbour)
    thread.start()
    try:
        statuses = set()
        for _ in range(num_requests):
            content = mangled(chance)
            answer = fast_server.client.post(PATH, content=content, headers=headers)
            assert answer.status_code in (200, 400, 404), (answer.status_code, content)
            assert answer.status_code == 200 or set(answer.json()) == {"error"}, content
            statuses.add(answer.status_code)
    finally:
        is_over.set()
        thread.join(30)
    assert statuses >= {200, 400}
    assert neighbours and all(choices == expected for choices in neighbours)


@pytest.mark.parametrize(
    ("num_clients", "seconds"), [(16, 8), pytest.param(64, 120, marks=[pytest.mark.slow, pytest.mark.timeout(400)])]
)
def test_under_load_no_message_is_lost_and_no_two_are_mixed(varied_server, num_clients, seconds):
    questions = [f"따라 해 {number // 10} {number % 10}" for number in range(100)]
    replies = {
        text: varied_server.chatbot.reply([{"role": "user", "content": text}], varied_server.service.settings.reply)
        for text in questions
    }
    assert len(set(replies.values())) > 80
    counts = []

    async def talk(client, number, end):
        for text in itertools.islice(itertools.cycle(questions), number, None):
            if time.monotonic() > end:
                return
            body = {"model": "bot", "messages": [{"role": "user", "content": text}]}
            if number % 2:
                async with client.stream("POST", PATH, json=body | {"stream": True}) as answer:
                    assert answer.status_code == 200
                    lines = [line async for line in answer.aiter_lines() if line]
                assert lines[-1] == "data: [DONE]"
                events = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
                reply = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
            else:
                answer = await client.post(PATH, json=body)
                assert answer.status_code == 200
                reply = answer.json()["choices"][0]["message"]["content"]
            assert reply == replies[text]
            counts.append(number)

    async def all_talk():
        end = time.monotonic() + seconds
        limits = httpx2.Limits(max_connections=num_clients, max_keepalive_connections=num_clients)
        async with httpx2.AsyncClient(base_url=varied_server.url, timeout=60, limits=limits) as client:
            await asyncio.gather(*(talk(client, number, end) for number in range(num_clients)))

    asyncio.run(all_talk())
    assert set(counts) == set(range(num_clients))


@pytest.mark.slow
def test_a_connection_is_open_for_as_long_as_clients_rely_on_it(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        for pause in (6, 0):
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(2**16).startswith(b"HTTP/1.1 200")
            # As long as the pools of Python's clients keep a connection, and a little more.
            time.sleep(pause)


@pytest.mark.parametrize("engine", ["transformers", "ctranslate2"])
def test_a_folder_that_breaks_while_it_is_served_changes_nothing(serve, trained, exported, tmp_path, engine):
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(trained if engine == "transformers" else exported, folder)
    with serve(Chatbot.from_pretrained(str(folder), engine=engine, device="cpu")) as server:
        before = server.ask().json()["choices"]
        for path in folder.rglob("*"):
            if path.is_file():
                # In place: a file that is mapped into memory would be lost by it.
                with path.open("r+b") as file:
                    file.truncate(10)
        assert server.ask().json()["choices"] == before
        shutil.rmtree(folder)
        assert server.ask().json()["choices"] == before
        assert (
            "".join(event["choices"][0]["delta"].get("content", "") for event in server.events())
            == before[0]["message"]["content"]
        )


def test_a_server_that_is_asked_to_stop_finishes_what_runs_and_takes_no_more(serve, slow):
    with (
        serve(slow, max_batch_size=1) as server,
        server.client.stream(
            "POST",
            PATH,
            json={"model": "bot", "messages": [{"role": "user", "content": "안녕"}], "max_tokens": 80, "stream": True},
        ) as running,
    ):
        assert eventually(lambda: server.service.batches.num_running == 1, 5)
        server.uvicorn.should_exit = True
        assert eventually(lambda: not can_connect(server), 5)
        assert running.read().endswith(b"data: [DONE]\n\n")


def test_what_outlasts_the_time_of_grace_is_ended(serve, slow):
    with serve(slow, max_batch_size=1, grace_seconds=1) as server:
        connections = [raw_request(server, stream=stream) for stream in (True, False)]
        assert eventually(lambda: server.service.batches.num_running == server.service.batches.num_waiting == 1, 5)
        began = time.monotonic()
        server.close()
        assert 0.5 < time.monotonic() - began < 5
        received = [b"", b""]
        for number, connection in enumerate(connections):
            while part := connection.recv(2**16):
                received[number] += part
        begun, waiting = sorted(received, key=lambda answer: b"HTTP/1.1 503" in answer)
        assert b"HTTP/1.1 200" in begun and b"[DONE]" not in begun
        assert b"x-request-id: " in waiting and b'{"error":{"message":"The server is stopping.' in waiting


def can_connect(server):
    try:
        socket.create_connection(("127.0.0.1", server.port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True
