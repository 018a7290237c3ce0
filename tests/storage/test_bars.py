"""Progress in a log file is a line now and then; a terminal has a bar."""

import io
import sys

import datasets
import pytest

from chatformer.storage import bars
from chatformer.storage.bars import datasets_bars, progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def work(seconds_of_a_step, clock):
    """Work for 100 steps, with figures at each fifth and an evaluation in the middle; return what stderr got."""
    with progress_bar(total=110, done=10, description="training", unit="step") as bar:
        for step in range(100):
            clock[0] += seconds_of_a_step
            bar.update()
            if step % 5 == 0:
                bar.show(loss=f"{step:.1f}")
            if step == 50:
                bar.write("step 50: loss 1.0")
    return sys.stderr.getvalue()


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    return now


def test_a_log_has_a_line_in_half_a_minute_and_evaluations_between_them(monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    lines = work(1.0, clock).splitlines()
    assert lines == [
        "training: 40 of 110 steps, 1 a second, 1.2 minutes left, loss 25.0",
        "step 50: loss 1.0",
        "training: 70 of 110 steps, 1 a second, 0.7 minutes left, loss 55.0",
        "training: 100 of 110 steps, 1 a second, 0.2 minutes left, loss 85.0",
    ]


def test_short_work_leaves_no_line_in_a_log(monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert work(0.2, clock) == "step 50: loss 1.0\n"


def test_work_of_unknown_length(monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress_bar(total=None, description="replying", unit="line") as bar:
        clock[0] += 60
        bar.update(1200)
    assert sys.stderr.getvalue() == "replying: 1,200 lines, 20 a second\n"


def test_a_terminal_has_one_bar(monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", Terminal())
    text = work(1.0, clock)
    assert "training" in text and "110/110" in text.split("\r")[-1]
    # The bar's own line ends at the end; the evaluation is the other one.
    assert text.count("\n") == 2 and "\rstep 50: loss 1.0\n" in text


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_no_bar_where_none_is_wanted(monkeypatch, clock, stream):
    monkeypatch.setattr(sys, "stderr", stream())
    with progress_bar(total=9, description="scoring", unit="exchange", shown=False) as bar:
        clock[0] += 100
        bar.update()
        bar.show(loss="1")
    assert sys.stderr.getvalue() == ""


def test_datasets_has_bars_in_a_terminal_alone(monkeypatch):
    hidden = []
    datasets.enable_progress_bars()
    for stream in (io.StringIO(), Terminal()):
        monkeypatch.setattr(sys, "stderr", stream)
        for shown in (True, False):
            with datasets_bars(shown=shown):
                hidden.append(datasets.are_progress_bars_disabled())
            assert not datasets.are_progress_bars_disabled()
    assert hidden == [True, True, False, True]
