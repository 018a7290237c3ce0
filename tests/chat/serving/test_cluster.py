"""Two replicas under Ray Serve, which takes half a minute to start."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections import Counter

import httpx2
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CLUSTER = """
import sys
import ray
from ray import serve
from chatformer.chat.serving.cluster import ClusterSettings, build

ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
address = {"host": "127.0.0.1", "port": int(sys.argv[2])}
try:
    serve.start(http_options=address)
except TimeoutError:
    # Ray waits for its proxy for a minute, and lets it go on starting.
    serve.start(http_options=address)
settings = ClusterSettings(
    model=sys.argv[1],
    engine="ctranslate2",
    model_name="bot",
    min_replicas=2,
    max_replicas=2,
    max_batch_size=2,
    max_waiting=40,
)
serve.run(build(settings))
(deployment,) = serve.status().applications["default"].deployments.values()
print("ready", deployment.replica_states, flush=True)
sys.stdin.read()
serve.shutdown()
ray.shutdown()
"""

PATIENCE = {
    # Otherwise its workers are the last on the machine to get a core.
    "RAY_worker_niceness": "0",
    "RAY_agent_register_timeout_ms": "240000",
    "RAY_worker_register_timeout_seconds": "240",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "240",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "240",
}
"""On a busy machine Ray's processes, each of which imports for seconds, do not start within the times it gives them."""


@pytest.fixture
def url(exported, tmp_path):
    pytest.importorskip("ray.serve")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER, str(exported), str(port)],
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | PATIENCE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        ready = next((line for line in process.stdout if line.startswith("ready")), None)
        assert ready == "ready {'RUNNING': 2}\n"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.stdin.close()
        try:
            process.wait(timeout=60)
        finally:
            # With it go the processes that it has started.
            process.kill()


def test_two_replicas_answer_as_one_and_refuse_what_is_too_much(url, fast_chatbot):
    from chatformer.configuration.replies import ReplySettings

    questions = [f"따라 해 {number} {number}" for number in range(10)]
    expected = [fast_chatbot.reply([{"role": "user", "content": text}], ReplySettings()) for text in questions]
    answers, statuses, refusals = {}, Counter(), []

    def ask(number, num_replies=1):
        with httpx2.Client(base_url=url, timeout=60) as client:
            body = {"model": "bot", "messages": [{"role": "user", "content": questions[number % 10]}]}
            answer = client.post("/v1/chat/completions", json=body | {"n": num_replies})
            statuses[answer.status_code] += 1
            if answer.status_code == 200:
                answers.setdefault(number % 10, set()).update(
                    choice["message"]["content"] for choice in answer.json()["choices"]
                )
            else:
                refusals.append((answer.json()["error"]["code"], answer.headers["retry-after"]))

    for number in range(10):
        ask(number)
    assert answers == {number: {reply} for number, reply in enumerate(expected)}
    # As many as Ray lets through to the replicas, and more replies than these have room for.
    threads = [threading.Thread(target=ask, args=[number, 16]) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200, 429} and set(refusals) == {("queue_full", "1")}
    assert answers == {number: {reply} for number, reply in enumerate(expected)}

    with httpx2.Client(base_url=url, timeout=60) as client:
        body = {"model": "bot", "stream": True, "messages": [{"role": "user", "content": questions[1]}]}
        *events, last = client.post("/v1/chat/completions", json=body).text.strip().split("\n\n")
        assert last == "data: [DONE]"
        deltas = [json.loads(event.removeprefix("data: "))["choices"][0]["delta"] for event in events]
        assert "".join(delta.get("content", "") for delta in deltas) == expected[1]
        assert client.get("/v1/nothing").json()["error"]["code"] == "not_found"
