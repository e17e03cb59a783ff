"""The memory of a process and its children, against what they allocate."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from benchmarks.watch import Peak, answered, once_bytes, tree_bytes

MEGABYTE = 1_000_000

HOLDS = """
import sys
held = bytearray({own})
held[::4096] = b"x" * len(held[::4096])
if {child}:
    import os, time
    if os.fork() == 0:
        more = bytearray({child})
        more[::4096] = b"x" * len(more[::4096])
        print("ready", flush=True)
        time.sleep(60)
else:
    print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start():
    started = []

    def run(code):
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        started.append(process)
        return process

    yield run
    for process in started:
        for pipe in (process.stdin, process.stdout):
            pipe.close()
        process.kill()
        process.wait()


def test_memory_of_children_counts(start):
    def grown(own, child):
        process = start(HOLDS.format(own=own, child=child))
        assert process.stdout.readline() == b"ready\n"
        return tree_bytes(process.pid)

    base = grown(0, 0)
    assert grown(80 * MEGABYTE, 0) - base == pytest.approx(80 * MEGABYTE, rel=0.1)
    # What the child has from its parent counts in both.
    assert grown(20 * MEGABYTE, 60 * MEGABYTE) - 2 * base == pytest.approx(100 * MEGABYTE, rel=0.15)


def test_what_processes_share_counts_once(start):
    process = start(HOLDS.format(own=80 * MEGABYTE, child=20 * MEGABYTE))
    assert process.stdout.readline() == b"ready\n"
    assert 100 * MEGABYTE < once_bytes(process.pid) < 130 * MEGABYTE < tree_bytes(process.pid)


def test_a_process_that_is_gone_has_none(start):
    process = start("")
    process.wait()
    assert tree_bytes(process.pid) == once_bytes(process.pid) == 0


def test_the_peak_is_seen_while_waiting(start):
    code = "held = bytearray(70_000_000); held[::4096] = b'x' * len(held[::4096])\n"
    process = start(code + "input(); del held; print('done', flush=True); input()")

    class Telling(Peak):
        """Lets the process go on once its memory was seen."""

        told = False

        def look(self, pid):
            super().look(pid)
            if self.bytes > 70 * MEGABYTE and not self.told:
                process.stdin.write(b"\n")
                process.stdin.flush()
                self.told = True

    peak = Telling()
    assert answered(process.stdout, 30, process.pid, peak)
    assert peak.bytes > 70 * MEGABYTE
    assert tree_bytes(process.pid) < peak.bytes - 60 * MEGABYTE


def test_waiting_ends(start):
    process, begin = start("input()"), time.monotonic()
    assert not answered(process.stdout, 0.3, process.pid, Peak())
    assert not answered(process.stdout, 0.3, process.pid, None)
    assert time.monotonic() - begin < 10
