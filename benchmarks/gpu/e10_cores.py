"""E10: is decoding fast with few CPU cores, with spinning or sleeping waits, with a busy interpreter?"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator

from benchmarks.gpu.bench import Bench, Row, fact
from benchmarks.gpu.decoders import INTERPOLATE, Handle, Refusal
from benchmarks.gpu.speed import alike_lanes, by_batches, lanes_of

__all__ = ["run"]

CORES = (1, 2)
WAITS = ("auto", "yield", "block")


def run(bench: Bench) -> Iterator[Row]:
    """Measure the engines, with batches of one subsampling, and the SMs under each condition.

    nvJPEG waits inside its call for the engines, on its own events; the CUDA context determines how.
    """
    usable = sorted(os.sched_getaffinity(0))
    for how in WAITS:
        yield fact(f"waits of the context: {how}", status=bench.gpu.context_waits(how))
        for backend, size in (("hardware", bench.scale.batch), ("gpu_hybrid", bench.scale.gpu_batches[0])):
            if backend != "hardware" and how != WAITS[0]:
                continue
            try:
                handle = Handle(bench.gpu.library(), backend, INTERPOLATE)
            except Refusal:
                continue
            make = alike_lanes if backend == "hardware" else lanes_of
            pictures = bench.rotation(size)
            for cores in [*(n for n in CORES if n < len(usable)), len(usable)]:
                case = f"{backend}, {cores} cores, {how} waits"
                with on_cores(usable[:cores]):
                    yield from by_batches(bench, case, make(bench, handle, pictures), cores=cores)
            with busy_interpreter():
                case = f"{backend}, a busy Python thread, {how} waits"
                yield from by_batches(bench, case, make(bench, handle, pictures))
    bench.gpu.context_waits(WAITS[0])


@contextlib.contextmanager
def on_cores(cores: Iterable[int]) -> Iterator[None]:
    """Pin all threads of this process to some cores; afterwards all, including new ones, get the old set."""
    before = os.sched_getaffinity(0)
    try:
        _pin(cores)
        yield
    finally:
        _pin(before)


def _pin(cores: Iterable[int]) -> None:
    # `sched_setaffinity(0)` pins only the calling thread, so the library's threads are pinned one by one.
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # ended meanwhile
            os.sched_setaffinity(int(thread), cores)


@contextlib.contextmanager
def busy_interpreter() -> Iterator[None]:
    """Keep another Python thread busy, which holds the GIL most of the time."""
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
