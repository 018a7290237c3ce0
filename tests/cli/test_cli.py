import subprocess
import sys

import pytest

from chatformer import __version__
from chatformer.cli.main import VERBS, main


@pytest.fixture
def chatformer(environment):
    """Return a function that runs the command and returns the finished process."""

    def run(*arguments, python=(), **more):
        command = [sys.executable, *python, "-m", "chatformer.cli.main", *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8", **more)

    return run


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_the_command_explains_itself_without_loading_torch(chatformer, arguments):
    process = chatformer(*arguments, python=["-X", "importtime"])
    assert process.returncode == 0
    for name, verb in VERBS.items():
        assert f"  {name}" in process.stdout and verb.purpose in process.stdout
    loaded = {line.split("|")[-1].strip().split(".")[0] for line in process.stderr.splitlines()}
    assert "difflib" in loaded
    # asyncio alone would double its time.
    assert not loaded & {"torch", "transformers", "numpy", "datasets", "tyro", "asyncio"}


def test_the_version_is_the_packages(chatformer):
    assert chatformer("--version").stdout == f"chatformer {__version__}\n"


@pytest.mark.parametrize(("verb", "nearest"), [("tarin", "train"), ("chatt", "chat"), ("quick-start", "quickstart")])
def test_a_misspelt_verb_is_refused_with_the_nearest(chatformer, verb, nearest):
    process = chatformer(verb)
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr.startswith(f"error: there is no verb '{verb}'. Did you mean `chatformer {nearest}`?\n")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_its_flags_without_loading_torch(chatformer, verb):
    process = chatformer(verb, "--help", python=["-X", "importtime"])
    assert process.returncode == 0
    assert process.stdout.startswith(f"usage: chatformer {verb}")
    assert not [line for line in process.stderr.splitlines() if line.split("|")[-1].strip() == "torch"]


def test_the_verb_that_translates_says_so(chatformer):
    assert "translate" in VERBS["generate"].purpose
    assert "translate" in chatformer("generate", "--help").stdout.splitlines()[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--recipe", "quickstrat"], "There is no recipe 'quickstrat'"),
        (["train", "--sed", "1"], "--seed INT"),
        (["chat", ".", "--temprature", "1"], "--temperature FLOAT"),
        (["chat"], "model"),
        (["quickstart", "--max-step", "1"], "--max-steps"),
    ],
)
def test_a_mistake_in_the_flags_is_told_before_anything_is_done(chatformer, tmp_path, arguments, message):
    process = chatformer(*arguments, cwd=tmp_path)
    assert process.returncode == 2
    assert process.stdout == ""
    assert message in process.stderr and "Traceback" not in process.stderr
    assert not list(tmp_path.iterdir())


def test_quickstart_trains_once_and_answers(chatformer, tmp_path):
    folder = tmp_path / "first bot"
    questions = "안녕!\nhello\n"
    process = chatformer("quickstart", "--output-dir", folder, "--max-steps", 1, input=questions)
    assert process.returncode == 0, process.stderr
    assert (folder / "training_curves.png").is_file()
    assert "A few replies:" in process.stderr and "you> 안녕!" in process.stderr
    # A line for each question: after one step a reply may be empty.
    *_, first, second, end = process.stdout.split("\n")
    assert end == ""

    weights = (folder / "model.safetensors").stat()
    process = chatformer("quickstart", "--output-dir", folder, input=questions)
    assert process.returncode == 0, process.stderr
    assert f"{folder} is trained already; remove it to start again." in process.stderr
    # Nothing but the answers: they may go into a file.
    assert process.stdout.split("\n") == [first, second, ""]
    assert (folder / "model.safetensors").stat() == weights


@pytest.mark.parametrize(
    ("end", "status", "printed"),
    [
        (None, 0, ""),
        (3, 3, ""),
        (ValueError("what is wrong"), 2, "error: what is wrong\n"),
        (FileNotFoundError("no such file"), 2, "error: no such file\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted\n"),
    ],
    ids=repr,
)
def test_each_end_of_a_verb_has_its_status_and_its_line(monkeypatch, capsys, end, status, printed):
    def quickstart(settings):
        if isinstance(end, BaseException):
            raise end
        return end

    monkeypatch.setattr("chatformer.cli.quickstart.quickstart", quickstart)
    assert main(["quickstart"]) == status
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", printed)


def test_a_mistake_of_ours_is_not_taken_for_the_users(monkeypatch):
    def quickstart(settings):
        raise RuntimeError("a bug")

    monkeypatch.setattr("chatformer.cli.quickstart.quickstart", quickstart)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["quickstart"])


def test_bars_of_transformers_are_off_although_it_is_imported_later():
    script = """if True:
        import sys
        from chatformer.cli.main import mute_transformers
        mute_transformers()
        assert "transformers" not in sys.modules
        from transformers.utils import logging
        print(logging.is_progress_bar_enabled())
    """
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert process.stdout == "False\n", process.stderr
