import threading

import pytest

from chatformer.chat.serving.batches import Batches, QueueFull, Row
from chatformer.configuration.replies import ReplySettings

GREEDY, DRAWN = ReplySettings(), ReplySettings(temperature=0.5)


class GatedEngine:
    """Computes a batch when it is let to; a reply is the source backwards."""

    num_parallel = 1
    keeps_seeds = True
    max_new_tokens = 10

    def __init__(self):
        self.gate = threading.Semaphore(0)
        self.has_begun = threading.Semaphore(0)
        self.log = []

    def generate(self, sources, search, on_token=None):
        self.log.append([list(source) for source in sources])
        self.has_begun.release()
        assert self.gate.acquire(timeout=20)
        if [13] in self.log[-1]:
            raise RuntimeError("13 cannot be read")
        for row, source in enumerate(sources):
            for token in reversed(source):
                if on_token(row, token):
                    break
        return [list(reversed(source)) for source in sources]

    def set_seed(self, seed):
        self.log.append(seed)


@pytest.fixture
def engine():
    return GatedEngine()


@pytest.fixture
def batches(engine):
    made = Batches(engine, max_batch_size=4, max_waiting=6)
    yield made
    for _ in range(20):
        engine.gate.release()
    made.close()


@pytest.fixture
def submit(batches, engine):
    """Return a function that queues a row; the first one is computed at once, and holds the engine."""
    begun = []

    def submitted(*source, settings=GREEDY, **options):
        done = threading.Event()
        row = Row(list(source), settings, max_new_tokens=10, end_token=0, on_change=done.set, **options)
        row.done = done
        batches.submit([row])
        if not begun:
            assert engine.has_begun.acquire(timeout=20)
        begun.append(row)
        return row

    return submitted


def let(engine, *rows):
    for _ in range(20):
        engine.gate.release()
    for row in rows:
        assert row.done.wait(20)


def test_what_waits_with_the_same_search_is_computed_together_the_oldest_first(submit, engine):
    rows = [submit(1), submit(2), submit(3, settings=DRAWN), submit(4), submit(5, 6, settings=DRAWN)]
    let(engine, *rows)
    assert engine.log == [[[1]], [[2], [4]], [[3], [5, 6]]]
    assert [row.tokens for row in rows] == [[1], [2], [3], [4], [6, 5]]


def test_a_batch_has_no_more_rows_than_it_may(submit, engine):
    rows = [submit(number) for number in range(1, 7)]
    let(engine, *rows)
    assert engine.log == [[[1]], [[2], [3], [4], [5]], [[6]]]


def test_a_row_ends_with_its_own_limit_and_at_the_end_token(batches, engine):
    done = threading.Event()
    short = Row([1, 2, 3], GREEDY, max_new_tokens=2, end_token=0, on_change=lambda: None)
    ended = Row([1, 0, 2], GREEDY, max_new_tokens=9, end_token=0, on_change=done.set)
    batches.submit([short, ended])
    engine.gate.release()
    assert done.wait(20)
    assert (short.tokens, ended.tokens) == ([3, 2], [2, 0])


def test_a_full_queue_refuses_at_once(batches, submit):
    submit(1)
    for number in range(6):
        submit(number + 2)
    with pytest.raises(QueueFull):
        submit(9)
    assert (batches.num_running, batches.num_waiting) == (1, 6)


def test_a_request_larger_than_the_queue_is_taken_while_nothing_waits(batches, submit, engine):
    submit(1)
    many = [Row([2], GREEDY, max_new_tokens=1, end_token=0, on_change=lambda: None) for _ in range(9)]
    batches.submit(many)
    with pytest.raises(QueueFull):
        submit(3)


def test_a_cancelled_row_frees_its_place_and_is_never_computed(batches, submit, engine):
    first, second, third = submit(1), submit(2), submit(3)
    batches.cancel([second])
    assert batches.num_waiting == 1
    let(engine, first, third)
    assert engine.log == [[[1]], [[3]]]


def test_an_error_is_that_of_its_row_alone(submit, engine, caplog):
    rows = [submit(1), submit(2), submit(13), submit(3)]
    let(engine, *rows)
    assert [row.tokens for row in rows] == [[1], [2], [], [3]]
    assert [type(row.error) for row in rows] == [type(None), type(None), RuntimeError, type(None)]
    assert "13 cannot be read" in caplog.text


def test_a_seed_is_set_for_its_own_rows_and_forgotten_afterwards(submit, engine):
    rows = [submit(1), submit(2), submit(3, seed=7, group="a"), submit(4, seed=7, group="b"), submit(5)]
    let(engine, *rows)
    first, after_first, second, after_second = (entry for entry in engine.log if isinstance(entry, int))
    assert engine.log == [[[1]], [[2], [5]], 7, [[3]], after_first, 7, [[4]], after_second]
    assert first == second == 7 and after_first != after_second


def test_idle_workers_share_what_waits():
    engine = GatedEngine()
    engine.num_parallel = 2
    batches = Batches(engine, max_batch_size=32, max_waiting=64)
    rows = [Row([number], GREEDY, max_new_tokens=1, end_token=0, on_change=lambda: None) for number in range(1, 9)]
    batches.submit(rows)
    assert engine.has_begun.acquire(timeout=20) and engine.has_begun.acquire(timeout=20)
    let(engine)
    batches.close()
    assert sorted(map(len, engine.log)) == [4, 4]


def test_a_closed_queue_ends_what_runs_and_takes_nothing(submit, batches, engine):
    running, waiting = submit(1), submit(2)
    closing = threading.Thread(target=batches.close)
    closing.start()
    let(engine, running)
    closing.join(20)
    assert not closing.is_alive()
    assert not waiting.done.is_set() and engine.log == [[[1]]]
    with pytest.raises(QueueFull):
        submit(3)
