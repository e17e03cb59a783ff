"""Buffers come back when their last view is gone, never before, and are kept within bounds."""

from __future__ import annotations

import gc
import os
import threading

import numpy as np
import pytest
import torch

from ffcv_gpu.device.buffer_pool import BufferPool


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize(
    "keep",
    [
        lambda a: a[3:5],
        lambda a: a.reshape(2, -1).view(np.int16)[:, ::2],
        lambda a: torch.from_numpy(a),
        lambda a: torch.from_numpy(a).view(4, -1)[1:].permute(1, 0),
        lambda a: memoryview(a),
    ],
)
def test_a_buffer_comes_back_when_its_last_view_is_gone(keep):
    pool = BufferPool(keep=4)
    first = pool.take(1000)
    where, view = address(first), keep(first)
    del first
    gc.collect()
    assert address(pool.take(1000)) != where, "a view was still alive"
    del view
    gc.collect()
    assert where in {address(array) for array in [pool.take(1000), pool.take(1000)]}


def test_free_buffers_are_bounded_and_can_be_given_back():
    pool = BufferPool(keep=2)
    arrays = [pool.take(100) for _ in range(5)]
    del arrays
    assert pool.free_bytes() == 200
    pool.trim()
    assert pool.free_bytes() == 0


class Interrupted(dict):
    def __setitem__(self, key, value):
        raise KeyboardInterrupt


def test_ctrl_c_while_a_buffer_is_sorted_in_does_not_break_the_pool(monkeypatch):
    pool = BufferPool(keep=2)
    array = pool.take(100)
    with pool._lock:
        del array  # so it is sorted in by who comes next
    with monkeypatch.context() as patch:
        patch.setattr(pool, "_all", Interrupted())
        with pytest.raises(KeyboardInterrupt):
            pool.free_bytes()
    assert pool.take(100).size == 100


def test_kept_buffers_do_not_come_back():
    pool = BufferPool(keep=8)
    kept = [pool.take(64) for _ in range(50)]
    for number, array in enumerate(kept):
        array[:] = number
    assert len({address(array) for array in kept}) == 50
    assert all((array == number).all() for number, array in enumerate(kept))


def test_all_sizes_together_are_bounded_and_the_oldest_goes_first():
    pool = BufferPool(keep=8, keep_bytes=1000)
    arrays = [pool.take(size) for size in (300, 400, 500)]
    where = [address(array) for array in arrays]
    del arrays[0], arrays[0]
    assert pool.free_bytes() == 700
    del arrays[0]
    assert pool.free_bytes() == 900, "the first was given back"
    assert address(pool.take(500)) == where[2] and address(pool.take(400)) == where[1]
    pool.take(1001)
    assert pool.free_bytes() <= 1000, "one that is larger than the bound is not kept"


def test_the_last_to_come_back_is_the_next_to_go():
    pool = BufferPool(keep=8)
    arrays = [pool.take(64) for _ in range(3)]
    where = [address(array) for array in arrays]
    while arrays:
        arrays.pop(0)
    again = [pool.take(64) for _ in range(3)]
    assert [address(array) for array in again] == where[::-1]


@pytest.mark.parametrize("begin", [0, 16])
def test_buffers_begin_where_they_shall(begin):
    pool = BufferPool(keep=1, begin=begin)
    for size in (0, 1, 63, 5000, 1 << 20):
        array = pool.take(size)
        array[:] = 7
        assert array.shape == (size,) and (size == 0 or address(array) % 64 == begin)


def test_the_garbage_collector_may_come_at_any_time():
    """A batch in a cycle (the traceback of an exception keeps one) can be dropped inside the pool itself."""
    pool = BufferPool(keep=4)

    class Free(dict):
        def setdefault(self, size, default):
            gc.collect()
            return super().setdefault(size, default)

    pool._free = Free()
    cycle = [pool.take(100)]
    cycle.append(cycle)
    array = pool.take(100)
    del cycle
    thread = threading.Thread(target=exec, args=("del held[:]", {"held": [array]}), daemon=True)
    del array
    gc.disable()
    try:
        thread.start()
        thread.join(10)
    finally:
        gc.enable()
    assert not thread.is_alive()
    assert pool.free_bytes() == 200


def test_threads_never_get_the_same_memory():
    pool, wrong = BufferPool(keep=4), []

    def work(mark):
        for n in range(300):
            mine = [pool.take(64 + 64 * (n % 3)) for _ in range(3)]
            for array in mine:
                array[:] = mark
            wrong.extend(array for array in mine if (array != mark).any())

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and pool.free_bytes() <= 4 * (64 + 128 + 192)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_has_a_pool_of_its_own_although_the_parents_was_locked():
    pool = BufferPool(keep=8)
    kept, free = pool.take(100), pool.take(200)
    del free
    with pool._lock:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                ok = pool.free_bytes() == 0 and pool.take(200).size == 200
                del kept
                status = 0 if ok and pool.free_bytes() == 300 else 2
            finally:
                os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert pool.free_bytes() == 200 and kept.size == 100
