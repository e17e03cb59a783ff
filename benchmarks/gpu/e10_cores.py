"""E10: few CPU cores: does decoding stay fast, with waits that spin or sleep, beside a busy interpreter?"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.decoders import Handle, Refusal
from benchmarks.gpu.speed import INTERPOLATE, by_batches, lanes_of

__all__ = ["run"]

Row = dict[str, Any]
CORES = (1, 2, 4)


def run(bench: Bench) -> Iterator[Row]:
    """Measure the best of E3 and of E5 in each surrounding."""
    usable = sorted(os.sched_getaffinity(0))
    sizes = {"hardware": bench.scale.batch, "gpu_hybrid": bench.scale.gpu_batches[0]}
    for backend, size in sizes.items():
        try:
            handle = Handle(bench.gpu.library(), backend, INTERPOLATE)
        except Refusal:
            continue
        pictures = bench.rotation(size)
        for cores in [*(n for n in CORES if n < len(usable)), len(usable)]:
            for blocking in (True, False):
                lanes = lanes_of(bench, handle, pictures, count=2)
                for lane in lanes:
                    lane.event = bench.gpu.event(blocking=blocking)
                case = f"{backend}, {cores} cores, {'sleeping' if blocking else 'spinning'} waits"
                with on_cores(usable[:cores]):
                    yield from by_batches(bench, case, lanes, cores=cores)
        with busy_interpreter():
            yield from by_batches(
                bench, f"{backend}, a busy Python thread", lanes_of(bench, handle, pictures, count=2)
            )


@contextlib.contextmanager
def on_cores(cores: list[int]) -> Iterator[None]:
    """Let all threads of this process run on these cores only, for a while."""
    # The affinity of a process is that of its first thread; the library's own threads are asked one by one.
    threads = [int(name) for name in os.listdir("/proc/self/task")]
    before = {thread: os.sched_getaffinity(thread) for thread in threads}
    try:
        _pin({thread: set(cores) for thread in threads})
        yield
    finally:
        _pin(before)


def _pin(wanted: dict[int, set[int]]) -> None:
    for thread, cores in wanted.items():
        with contextlib.suppress(ProcessLookupError):  # ended meanwhile
            os.sched_setaffinity(thread, cores)


@contextlib.contextmanager
def busy_interpreter() -> Iterator[None]:
    """Keep another Python thread at work, which holds the interpreter's lock most of the time."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
