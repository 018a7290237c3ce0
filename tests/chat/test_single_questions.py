import logging

import pytest
from transformers import pipeline
from transformers.utils import logging as transformers_logging

from chatformer.chat import terminal
from chatformer.chat.chatbot import Chatbot, Conversation
from chatformer.cli.main import main
from chatformer.configuration.replies import ChatSettings

DOES_NOT_READ = "This model was trained on single questions and does not read what was said before."
IGNORED = "warning: --system is ignored"


@pytest.mark.parametrize(("model", "times"), [("trained", 0), ("reads_questions", 1)])
def test_a_chat_says_once_that_the_history_is_not_read(request, monkeypatch, capsys, model, times):
    chatbot = Chatbot.from_pretrained(str(request.getfixturevalue(model)), device="cpu")
    typed = iter(["안녕", "또 안녕", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    assert terminal.talk(lambda: Conversation(chatbot), ChatSettings()) == 0
    assert capsys.readouterr().out.count(DOES_NOT_READ) == times


@pytest.mark.parametrize("command", ["chat", "generate"])
@pytest.mark.parametrize(
    ("model", "options", "times"),
    [("reads_questions", ["--system", "짧게"], 1), ("reads_questions", [], 0), ("trained", ["--system", "짧게"], 0)],
)
def test_a_system_message_that_is_ignored_is_warned_of(
    request, monkeypatch, tmp_path, capsys, command, model, options, times
):
    arguments = [str(request.getfixturevalue(model)), "--device", "cpu", *options]
    file = tmp_path / "lines.txt"
    file.write_text("안녕\n", "utf-8")
    capsys.readouterr()
    if command == "chat":
        with file.open(encoding="utf-8") as stream:
            monkeypatch.setattr("sys.stdin", stream)
            assert main(["chat", *arguments]) == 0
    else:
        assert main(["generate", *arguments, "--data", str(file)]) == 0
    printed = capsys.readouterr()
    assert printed.err.count(IGNORED) == times
    assert len(printed.out.splitlines()) == 1 and "warning" not in printed.out


@pytest.mark.parametrize(("model", "times"), [("trained", 0), ("reads_questions", 1)])
def test_a_chat_through_a_pipe_says_once_that_each_line_is_alone(request, monkeypatch, tmp_path, capsys, model, times):
    (tmp_path / "lines.txt").write_text("안녕\n또 안녕\n", "utf-8")
    with (tmp_path / "lines.txt").open(encoding="utf-8") as stream:
        monkeypatch.setattr("sys.stdin", stream)
        assert main(["chat", str(request.getfixturevalue(model)), "--device", "cpu"]) == 0
    assert capsys.readouterr().err.count("each line is answered without those before") == times


@pytest.mark.parametrize(("model", "times"), [("trained", 0), ("reads_questions", 1)])
def test_the_pipeline_says_once_what_it_does_not_read(request, model, times):
    pipe = pipeline("seq2seq-chat", model=str(request.getfixturevalue(model)), device="cpu", trust_remote_code=True)
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    log = transformers_logging.get_logger(type(pipe).__module__)
    log.addHandler(handler)
    try:
        question = {"role": "user", "content": "따라 해 1 2"}
        before = [{"role": "system", "content": "짧게"}, question, {"role": "assistant", "content": "네, 1 2"}]
        pipe([question], max_new_tokens=2)
        assert records == []
        for _ in range(2):
            pipe([*before, question], max_new_tokens=2)
    finally:
        log.removeHandler(handler)
    assert [("system" in line, "said before" in line) for line in records] == [(True, False), (False, True)][
        : 2 * times
    ]
