"""Work that helpers do in order, while the calling thread does other things, and when something fails."""

from __future__ import annotations

import threading
import time
import weakref
from concurrent.futures.thread import _WorkItem

import numpy as np
import pytest

from ffcv_gpu.decode.copies import Copies, helpers_for
from ffcv_gpu.decode.threads import InOrder, _helpers, shared_out

pytestmark = pytest.mark.timeout(60)


class Meeting:
    """Work of which each of two threads does one thing."""

    def __init__(self):
        self.both = threading.Barrier(2, timeout=30)

    def do(self, things):
        for _ in things:
            self.both.wait()


def test_work_that_is_shared_out_is_let_go_when_it_is_done(monkeypatch):
    """A thread of a pool has it for a moment longer: images that it refers to could not be used again."""
    real, go_on = _WorkItem.run, threading.Event()
    monkeypatch.setattr(_WorkItem, "run", lambda *given: (real(*given), go_on.wait(30)))
    meeting = Meeting()
    gone = weakref.ref(meeting)
    shared_out(range(2), meeting.do, 2)
    del meeting
    assert gone() is None
    go_on.set()


@pytest.mark.parametrize("helpers", [0, 1, 3])
def test_pieces_are_done_once_and_when_they_are_asked_for(helpers):
    done = []
    with InOrder(done.append, 20, helpers) as pieces:
        for count in (3, 3, 11, 20):
            pieces.finish(count)
            assert set(range(count)) <= set(done)
    assert sorted(done) == list(range(20))


def test_helpers_go_on_by_themselves():
    """As far as they get while this thread does something else."""
    gone = threading.Event()
    with InOrder(lambda piece: gone.set() if piece == 9 else None, 10, 1) as pieces:
        pieces.finish(1)
        assert gone.wait(30)


def test_what_is_asked_for_waits_for_the_helper_who_is_at_it():
    begun, may = threading.Event(), threading.Event()
    here, done = threading.current_thread(), []

    def work(piece):
        if threading.current_thread() is here:
            begun.wait(30)  # until a helper has a piece, too
            may.set()
        else:
            begun.set()
            may.wait(30)
        done.append(piece)

    with InOrder(work, 2, 1) as pieces:
        pieces.finish(2)
        assert sorted(done) == [0, 1]


@pytest.mark.parametrize("helpers", [0, 2])
def test_an_exception_ends_it(helpers):
    done = []

    def work(piece):
        if piece == 5:
            raise OSError("mine")
        while piece > 5 and pieces._error is None:  # however long the other thread takes to raise it
            time.sleep(0.001)
        done.append(piece)

    pieces = InOrder(work, 500, helpers)
    with pytest.raises(OSError, match="mine"), pieces:
        pieces.finish(500)
    assert 5 <= len(done) <= 5 + helpers  # what others had begun by then


def test_leaving_early_leaves_nobody_at_work():
    at_work, may = threading.Event(), threading.Event()
    ended = []

    def work(piece):
        at_work.set()
        may.wait(30)
        ended.append(piece)

    def let_go_on():
        while pieces._next < 50:  # until leaving has begun
            time.sleep(0.001)
        may.set()

    def fail():
        with pieces:
            assert at_work.wait(30)
            letting.start()
            1 / 0

    pieces, letting = InOrder(work, 50, 2), threading.Thread(target=let_go_on, daemon=True)
    with pytest.raises(ZeroDivisionError):
        fail()
    letting.join(30)
    assert 1 <= len(ended) <= 2  # what was being done then, one of each helper


def test_a_thread_that_cannot_be_had_leaves_nobody_at_work(monkeypatch):
    """The pool keeps work that it cannot start a thread for, and a thread that becomes free does it."""
    pool, free, at_work, ended = _helpers.get(), threading.Event(), threading.Event(), []
    pool.submit(free.wait, 30)

    def adjust():
        free.set()
        assert at_work.wait(30)
        raise RuntimeError("can't start new thread")

    def work(piece):
        at_work.set()
        ended.append(piece)

    monkeypatch.setattr(pool, "_adjust_thread_count", adjust)
    with pytest.raises(RuntimeError, match="can't start new thread"), InOrder(work, 10, 1):
        pass
    assert not any(thread.is_alive() for thread in pool._threads)
    with InOrder(ended.append, 3, 1) as pieces:
        pieces.finish(3)


@pytest.mark.parametrize("helpers", [0, 2])
def test_files_lie_one_behind_the_other(helpers, monkeypatch):
    monkeypatch.setattr("ffcv_gpu.decode.copies.PIECE_BYTES", 700)
    rng = np.random.default_rng(0)
    files = [rng.integers(0, 256, size, np.uint8) for size in rng.integers(0, 900, 60)]
    files[7] = files[59] = np.empty(0, np.uint8)
    files[9].flags.writeable = False
    expected = np.concatenate(files)
    target = np.zeros(expected.size + 5, np.uint8)
    with Copies(files, target, [20, 21, 60], helpers) as copies:
        for count in (20, 21, 60):
            copies.bring(count)
            size = sum(file.size for file in files[:count])
            assert np.array_equal(target[:size], expected[:size])
    assert not target[expected.size :].any()


def test_helpers_are_called_for_much_to_copy_only():
    assert [helpers_for(size << 20, 4) for size in (0, 7, 8, 17, 1000)] == [0, 0, 1, 2, 3]
    assert helpers_for(1 << 30, 1) == 0
