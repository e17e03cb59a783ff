"""E6: engines and SMs at once, with split batches; and the slowdown of a concurrent training load."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median

from benchmarks.gpu.bench import Bench, Row, fact, unless_refused
from benchmarks.gpu.decoders import INTERPOLATE, Handle, Refusal
from benchmarks.gpu.pictures import Pictures
from benchmarks.gpu.speed import Lane, by_batches, lanes_of

__all__ = ["run"]

SHARES = (0.5, 0.6, 0.7, 0.8, 0.9)
LOAD_STEPS = 20


def run(bench: Bench) -> Iterator[Row]:
    """Measure each alone, then both by share, then with a concurrent load."""
    library, files = bench.gpu.library(), bench.photos()
    cores = Handle(library, "gpu_hybrid", INTERPOLATE)
    size = 2 * bench.scale.gpu_batches[0]
    whole = bench.rotation(size, files=files)
    alone = {"cores": lanes_of(bench, cores, whole)}
    try:
        # Without interpolation, mixed subsampling costs the engines nothing; here only the sum matters.
        engine = Handle(library, "hardware")
    except Refusal as refusal:
        yield fact("no engine", words=str(refusal))
    else:
        alone["engine"] = lanes_of(bench, engine, whole)
    for name, lanes in alone.items():
        yield from by_batches(bench, f"{name} alone", lanes, keep=True)
    if "engine" in alone:
        for share in SHARES:
            yield from _split(bench, engine, cores, whole, share)
    yield from unless_refused(bench, "with a concurrent load", _beside(bench, alone))


def _split(
    bench: Bench, engine: Handle, cores: Handle, whole: Sequence[Pictures], share: float
) -> Iterator[Row]:
    """Decode `share` of each batch on the engines and the rest on the SMs, from two threads."""
    cut = int(whole[0].count * share)
    parts = [
        [Pictures.of(bench.gpu, p.files[some]) for p in whole] for some in (slice(cut), slice(cut, None))
    ]
    lanes = [*lanes_of(bench, engine, parts[0]), *lanes_of(bench, cores, parts[1])]
    yield from by_batches(bench, f"both, {share:.0%} to the engines", lanes, threads=True, share=share)


def _beside(bench: Bench, alone: dict[str, list[Lane]]) -> Iterator[Row]:
    """Time steps of matrix products alone, then concurrently with each decoder."""
    step, seconds = bench.gpu.load(), 4 * bench.scale.seconds
    base = _step_seconds(step, seconds)
    yield fact("a step of matrix products alone", milliseconds=1000 * base)
    for name, (lane,) in alone.items():
        with _decoding(bench, lane) as begun:
            before, start = begun(), time.perf_counter()
            found = _step_seconds(step, seconds)
            rate = (begun() - before) / (time.perf_counter() - start)
        yield fact(f"such a step with the {name} decoding", milliseconds=1000 * found,
                   slower=found / base - 1, images_per_second=rate)  # fmt: skip


@contextlib.contextmanager
def _decoding(bench: Bench, lane: Lane) -> Iterator[Callable[[], int]]:
    """Decode in another thread; yields a function that counts the images begun (>= two batches)."""
    stop, images = threading.Event(), [0]

    def decode() -> None:
        for job in itertools.cycle(lane.jobs):
            lane.start(job)
            images[0] += job.pictures.count
            if stop.is_set():
                break
        lane.wait()

    with ThreadPoolExecutor(1, initializer=bench.gpu.use) as pool:
        decoding = pool.submit(decode)
        try:
            while images[0] < 2 * lane.jobs[0].pictures.count and not decoding.done():
                time.sleep(0.001)
            yield lambda: images[0]
        finally:
            stop.set()
        decoding.result()  # raises its exception


def _step_seconds(step: Callable[[], None], seconds: float) -> float:
    """Return the median duration of at least `LOAD_STEPS` steps that take at least `seconds`."""
    found: list[float] = []
    begun = now = time.perf_counter()
    while len(found) < LOAD_STEPS or now - begun < seconds:
        step()
        start, now = now, time.perf_counter()
        found.append(now - start)
    return median(found)
