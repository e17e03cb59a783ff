"""Mapped memory that is there, that is not, and that a file lost: what the system says, without a signal."""

from __future__ import annotations

import mmap
import os
import resource
import subprocess
import sys
import threading
from errno import EFAULT, ENOMEM

import numpy as np
from numba import config

from ffcv_gpu.kernels.populate_cpu import SMALL, WINDOW, populate, windows_of

PAGE = mmap.PAGESIZE
NOWHERE = PAGE  # Linux maps nothing on the first pages


def address_of(array):
    return array.__array_interface__["data"][0]


def ask(address, *ranges):
    """Have (offset, length) pairs behind an address brought in."""
    offsets, lengths = np.int64(ranges).T.copy()
    return populate(address, offsets, lengths, PAGE)


def faults_of_touching(array):
    """Return how often the system had to be asked for a page while one byte of each was read."""
    np.ones(array.size, np.uint8)[::PAGE].sum()  # what numpy needs is in memory now
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    array[::PAGE].sum()
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before


def test_what_was_brought_in_is_touched_without_a_fault():
    """Of a read-only map without a file: its zeros are one page of the system's, mapped once for each."""
    ask(0, (NOWHERE, 1))  # compiles, or loads
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with mmap.mmap(-1, 512 * PAGE, flags=flags, prot=mmap.PROT_READ) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        array = np.frombuffer(memory, np.uint8)
        half = array[: 256 * PAGE]
        ranges = (0, 100 * PAGE + 1), (200 * PAGE - 1, 56 * PAGE + 1), (101 * PAGE, 98 * PAGE + 7)
        assert ask(address_of(array), *ranges) == (-1, 0)
        assert faults_of_touching(half) < 16
        assert faults_of_touching(array[half.size :]) >= 256
        assert not array.any()
        del array, half


def test_the_first_range_that_a_cut_file_lost_is_named(tmp_path):
    file = tmp_path / "file"
    np.arange(512 * PAGE, dtype=np.uint8).tofile(file)
    array = np.memmap(file, np.uint8, "r")
    address = address_of(array)  # whoever prints the array touches it
    os.truncate(file, PAGE + 10)
    last = (PAGE + 9, 1), (PAGE + 10, PAGE - 10)  # the rest of the last page is zeros
    assert ask(address, (0, 0), *last) == (-1, 0)
    assert ask(address, *last, (PAGE + 9, PAGE), (2 * PAGE, 1)) == (2, EFAULT)
    assert ask(address, (0, 7), (511 * PAGE, 1), *last) == (1, EFAULT)


def mapped(path, size):
    """Return a file's map and its address."""
    np.arange(size, dtype=np.uint8).tofile(path)
    array = np.memmap(path, np.uint8, "r")
    return array, address_of(array)


def test_small_ranges_bring_in_their_windows_once(tmp_path):
    array, address = mapped(tmp_path / "file", 5 * WINDOW + 100)
    brought = windows_of(array.size)
    assert brought.tolist() == [0] * 6
    offsets = np.int64([10, 3 * WINDOW - 1, 5 * WINDOW + 90, 4 * WINDOW])
    lengths = np.int64([1, 2, 10, SMALL])  # the third spans two windows, the last is not small
    assert populate(address, offsets, lengths, PAGE, array.size, brought, 7) == (-1, 0)
    assert brought.tolist() == [7, 0, 7, 7, 0, 7]
    assert faults_of_touching(array[:WINDOW]) < WINDOW // PAGE // 2  # all but a chance one
    asked = brought.copy()
    assert populate(NOWHERE, offsets[:3], lengths[:3], PAGE, array.size, brought, 7) == (-1, 0)  # not asked
    assert populate(address, offsets[:1], lengths[:1], PAGE, array.size, brought, 8) == (-1, 0)
    assert brought.tolist() == [8, *asked[1:]]


def test_a_window_that_was_brought_in_does_not_hide_that_the_file_was_cut(tmp_path):
    array, address = mapped(tmp_path / "file", 2 * WINDOW)
    brought, now = windows_of(array.size), 1
    offsets, lengths = np.int64([5, 6 * PAGE]), np.int64([3, 9])
    assert populate(address, offsets, lengths, PAGE, array.size, brought, now) == (-1, 0)
    os.truncate(tmp_path / "file", 2 * PAGE)
    assert populate(address, offsets, lengths, PAGE, 2 * PAGE, brought, now) == (1, EFAULT)
    # cut between the look at its size and the read: the window fails, the range that is there does not
    assert populate(address, offsets, lengths, PAGE, array.size, brought, now + 1) == (1, EFAULT)
    assert brought.tolist() == [now, 0]


def test_memory_that_is_not_mapped():
    assert ask(0, (NOWHERE, PAGE), (5, 9)) == (0, ENOMEM)


def test_ranges_of_no_bytes_are_nowhere():
    assert populate(0, np.int64([NOWHERE + 1, 1]), np.int64([0, 0]), PAGE) == (-1, 0)
    assert populate(0, np.int64([]), np.int64([]), PAGE) == (-1, 0)


def test_where_the_system_cannot_tell_the_next_range_is_asked_for():
    """EINVAL: a kernel that does not know the question; here, one that is asked for half a page."""
    offsets, lengths = np.int64([NOWHERE + 1, NOWHERE]), np.int64([1, 1])
    assert populate(0, offsets[:1], lengths[:1], 1) == (-1, 0)
    assert populate(0, offsets, lengths, 1) == (1, ENOMEM)


def test_where_nothing_may_be_compiled_all_passes(monkeypatch):
    monkeypatch.setattr(config, "DISABLE_JIT", 1)
    assert populate(0, np.int64([NOWHERE]), np.int64([1]), PAGE) == (-1, 0)


def test_other_threads_go_on_meanwhile():
    """No thread is made to give the GIL up here, so the other one gets it only if the call does."""
    array, many = np.zeros(256 * PAGE, np.uint8), 10_000  # 0.1 s a call, and on a busy machine some calls
    ask(address_of(array), (0, array.size))
    offsets, lengths = np.zeros(many, np.int64), np.full(many, array.size)
    held, went_on = threading.Lock(), []

    def other():
        with held:
            went_on.append(True)

    thread, interval = threading.Thread(target=other), sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        with held:
            thread.start()
        assert not went_on
        for _ in range(200):
            populate(address_of(array), offsets, lengths, PAGE)
            if went_on:
                break
        assert went_on
    finally:
        sys.setswitchinterval(interval)
        thread.join()


IN_A_NEW_PROCESS = """
import mmap
import sys
import numpy as np
from ffcv_gpu.kernels.populate_cpu import populate, populate_ranges
memory = np.zeros(100, np.uint8)
address, page = memory.ctypes.data, mmap.PAGESIZE
print(*populate(address, np.array([0, page - address]), np.array([100, 1]), page))
print(sum(populate_ranges.stats.cache_hits.values()), "numba.np.arraymath" in sys.modules)
"""


def test_kept_code_finds_the_systems_functions_again(tmp_path):
    variables = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", IN_A_NEW_PROCESS]
    for kept, registries in (("0", "True"), ("1", "False")):
        done = subprocess.run(command, capture_output=True, text=True, env=variables)
        assert done.stdout.split() == ["1", str(ENOMEM), kept, registries], done.stderr
