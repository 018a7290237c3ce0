"""The command, as a process."""

import signal
import socket
import subprocess
import sys

import httpx2
import pytest

from chatformer.chat.serving.server import is_open_to_others, with_key
from chatformer.cli.main import main
from chatformer.configuration.replies import ServeSettings, WebSettings

QUESTION = [{"role": "user", "content": "따라 해 1 2"}]


def test_the_command_serves_warns_and_ends_in_peace(exported, environment):
    flags = ["--engine", "ctranslate2", "--host", "0.0.0.0", "--port", "0", "--model-name", "bot"]
    process = subprocess.Popen(
        [sys.executable, "-m", "chatformer.cli.main", "serve", str(exported), *flags],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert line.startswith("bot is served at http://0.0.0.0:"), process.stderr.read()
        url = f"http://127.0.0.1:{httpx2.URL(line.split()[4]).port}/v1"
        answer = httpx2.post(f"{url}/chat/completions", json={"model": "bot", "messages": QUESTION}, timeout=30)
        assert answer.status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{url}/models")
        warning = process.stderr.read()
        assert "WITHOUT A KEY" in warning and warning.count("\n") == 1
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("host", "is_open"),
    [("127.0.0.1", False), ("127.1.2.3", False), ("::1", False), ("0.0.0.0", True), ("::", True), ("fe80::1%2", True)],
)
def test_addresses_that_others_reach(host, is_open):
    assert is_open_to_others(host) is is_open


@pytest.mark.parametrize("settings", [ServeSettings(model="x"), WebSettings(model="x")])
def test_only_this_machine_reaches_what_no_flag_opens(settings):
    assert not is_open_to_others(settings.host)


def test_what_cannot_be_served_is_one_line(capsys, monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for flags, words in (
            (["--port", port], "cannot be listened at"),
            (["--port", "0", "--host", "no.such.host.example"], "cannot be listened at"),
            (["--port", "0"], "nowhere"),
        ):
            assert main(["serve", "nowhere", *flags]) == 2
            error = capsys.readouterr().err
            assert error.startswith("error: ") and words in error and error.count("\n") == 1
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "nowhere"]) == 2
    assert capsys.readouterr().err == (
        "error: `chatformer serve` needs the package uvicorn. Run: pip install 'chatformer[serve]'\n"
    )


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("port", "-1"),
        ("port", "65536"),
        ("max_batch_size", "0"),
        ("max_waiting", "0"),
        ("max_body_bytes", "0"),
        ("num_threads", "0"),
        ("grace_seconds", "-1"),
    ],
)
def test_settings_have_bounds(capsys, flag, value):
    flag = "--" + flag.replace("_", "-")
    assert main(["serve", "nowhere", flag, value]) == 2
    assert capsys.readouterr().err.startswith(f"error: {flag} must be")


def test_a_flag_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("CHATFORMER_API_KEY", "from-environment")
    assert with_key(ServeSettings(model="x")).api_key == "from-environment"
    assert with_key(ServeSettings(model="x", api_key="from-flag")).api_key == "from-flag"
    monkeypatch.setenv("CHATFORMER_API_KEY", "")
    assert with_key(ServeSettings(model="x")).api_key is None


def test_the_name_is_the_folders(tmp_path):
    assert ServeSettings(model=f"{tmp_path}/").served_name == tmp_path.name
    assert ServeSettings(model="you/bot").served_name == "you/bot"
    assert ServeSettings(model="you/bot", model_name="b").served_name == "b"
