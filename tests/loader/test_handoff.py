"""The queue between an epoch's thread and its consumer: its room, its ends, and what interrupts it."""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest

from ffcv_gpu.loader.handoff import Handoff


def in_a_thread(*work):
    """Call `work` one after another; it must not take long."""
    done = []
    thread = threading.Thread(target=lambda: done.extend(one() for one in work), daemon=True)
    thread.start(), thread.join(20)
    assert not thread.is_alive()
    return done


def taken(handoff):
    """What can be taken until the end."""
    found = []
    with suppress(StopIteration):
        while True:
            found.append(handoff.get())
    return found


def test_batches_come_in_order_and_at_most_so_many_wait():
    handoff, waiting = Handoff(2), []

    def feed():
        for number in range(0, 9, 3):  # bundles, which are put as a whole once there is room
            assert handoff.put(range(number, number + 3))
            waiting.append(handoff._items.qsize())
        handoff.close()

    feeding = threading.Thread(target=feed)
    feeding.start()
    assert taken(handoff) == list(range(9)) and taken(handoff) == []
    feeding.join()
    assert max(waiting) <= 2 - 1 + 3


def test_an_error_comes_behind_the_batches_before_it_and_once():
    handoff = Handoff(5)
    handoff.put([1, 2])
    handoff.close(ValueError("first"))
    handoff.close(ValueError("second"))
    assert [handoff.get(), handoff.get()] == [1, 2] and handoff.closed() and not handoff.put([3])
    with pytest.raises(ValueError, match="first"):
        handoff.get()
    assert taken(handoff) == []


def test_closing_ends_a_wait_for_room_and_drops_what_waits():
    handoff, results = Handoff(1), []
    handoff.put([1])
    feeding = threading.Thread(target=lambda: results.append(handoff.put([2])))
    feeding.start()
    handoff.close(drop=True)
    feeding.join(20)
    assert results == [False] and taken(handoff) == []


def test_closing_ends_the_waits_of_all_consumers():
    handoff, found = Handoff(1), []
    waiting = [threading.Thread(target=lambda: found.append(taken(handoff)), daemon=True) for _ in range(3)]
    for thread in waiting:
        thread.start()
    handoff.close(drop=True)
    for thread in waiting:
        thread.join(20)
    assert found == [[]] * 3


def test_an_epoch_may_be_collected_while_its_thread_hands_over():
    """Then it is closed by the thread that holds the lock."""
    handoff = Handoff(1)
    in_a_thread(handoff._lock.acquire, lambda: handoff.close(drop=True), handoff._lock.release)
    assert taken(handoff) == []


class Interrupted(threading.Condition):
    """Ctrl-C as soon as the main thread has locked it: one in a thousand does that."""

    def __enter__(self):
        entered = super().__enter__()
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        return entered


@pytest.mark.parametrize("interrupted", [Handoff.get, Handoff.close], ids=["get", "close"])
def test_ctrl_c_leaves_no_lock_locked(monkeypatch, interrupted):
    with monkeypatch.context() as patched:
        patched.setattr(threading, "Condition", Interrupted)
        handoff = Handoff(1)
    in_a_thread(lambda: handoff.put([0]))
    with suppress(KeyboardInterrupt):
        interrupted(handoff)
    in_a_thread(handoff.close)
