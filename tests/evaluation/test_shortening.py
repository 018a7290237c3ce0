import pytest

from chatformer.evaluation.baselines import Comparison
from chatformer.evaluation.report import show
from chatformer.evaluation.shortening import shortened


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("안녕", "안녕"),
        ("one\n two\t three ", "one two three"),
        ("a" * 60, "a" * 60),
        ("a" * 61, "a" * 59 + "…"),
        ("\x1b[2Jgone\u202eback", "<U+001B>[2Jgone<U+202E>back"),
    ],
)
def test_a_text_is_one_line_that_a_terminal_does_not_obey(text, line):
    assert shortened(text) == line


def test_an_evaluation_shows_the_beginning_of_a_text_of_thousands_of_words(capsys):
    sample = {
        "history": [{"role": "user", "content": "source " * 3000}],
        "reply": "\x1b[31mreply " * 3000,
        "reference": "short",
    }
    show("bot", Comparison(groups={}, model={}, baselines={}, baseline_replies={}), {}, [], None, [sample], {}, [])
    printed = capsys.readouterr().out
    assert "source source" in printed and "(reference: short)" in printed
    assert len(printed) < 2000 and "\x1b[31mreply" not in printed and printed.count("…") == 2
