"""E6: engines and cores at once, the batch split between them; what decoding costs a training beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

from benchmarks.gpu.bench import Bench, fact
from benchmarks.gpu.decoders import Handle, Refusal
from benchmarks.gpu.pictures import Pictures
from benchmarks.gpu.speed import INTERPOLATE, Lane, by_batches, lanes_of, measured, totals

__all__ = ["run"]

Row = dict[str, Any]
SHARES = (0.5, 0.6, 0.7, 0.8, 0.9)
LOAD_STEPS = 20


def run(bench: Bench) -> Iterator[Row]:
    """Measure each alone, then both by share, then beside a load."""
    library, files = bench.gpu.library(), bench.photos()
    cores = Handle(library, "gpu_hybrid", INTERPOLATE)
    size = 2 * bench.scale.gpu_batches[0]
    whole = bench.rotation(size, files=files)
    alone = {"cores": lanes_of(bench, cores, whole)}
    try:
        # Without interpolation a mixture costs the engines nothing, and the question here is the sum.
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
    yield from _beside(bench, alone)


def _split(
    bench: Bench, engine: Handle, cores: Handle, whole: Sequence[Pictures], share: float
) -> Iterator[Row]:
    """`share` of each batch to the engines, the rest to the cores, from two threads."""
    cut = int(whole[0].count * share)
    parts = [
        [Pictures.of(bench.gpu, p.files[some]) for p in whole] for some in (slice(cut), slice(cut, None))
    ]
    lanes = [*lanes_of(bench, engine, parts[0]), *lanes_of(bench, cores, parts[1])]
    with ThreadPoolExecutor(2, initializer=bench.gpu.use) as pool:

        def turn() -> dict[str, float]:
            list(pool.map(Lane.all, lanes))
            return totals(whole)

        yield from measured(bench, f"both, {share:.0%} to the engines", turn, share=share)


def _beside(bench: Bench, alone: dict[str, list[Lane]]) -> Iterator[Row]:
    """Time steps of matrix products with nothing beside them, then beside each decoder."""
    step = bench.gpu.load()
    base = _step_seconds(step)
    yield fact("a step of matrix products alone", milliseconds=1000 * base)
    for name, (lane, *_) in alone.items():
        stop = threading.Event()
        done = [0]

        def decode(lane: Lane = lane, stop: threading.Event = stop, done: list[int] = done) -> None:
            bench.gpu.use()
            while not stop.is_set():
                lane.all()
                done[0] += sum(job.pictures.count for job in lane.jobs)

        thread = threading.Thread(target=decode)
        thread.start()
        try:
            start = time.perf_counter()
            seconds = _step_seconds(step)
            gone = time.perf_counter() - start
        finally:
            stop.set()
            thread.join()
        yield fact(f"the same beside {name}", milliseconds=1000 * seconds, slower=seconds / base - 1,
                   images_per_second=done[0] / gone)  # fmt: skip


def _step_seconds(step: Callable[[], None]) -> float:
    found = []
    for _ in range(LOAD_STEPS):
        start = time.perf_counter()
        step()
        found.append(time.perf_counter() - start)
    return median(found)
