"""C4: memory that is reused while it is still being read: batches read late, kept, or dropped at once.

The consumer's stream is kept busy, so that it reads a batch long after the loader may have continued. If
memory of the batch is reused too early, the values differ from those of a run in which everything waits.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.gpu.bench import Bench, Row, check
from benchmarks.gpu.datasets import loader_of, stored

__all__ = ["run"]

BUSY_MILLISECONDS = 10.0
ROUNDS = 8
#: sizes of memory that is dropped while its stream still writes to it, and the number of writes
DROPPED_MEGABYTES, STEPS = (32, 64, 128), 200


def run(bench: Bench) -> Iterator[Row]:
    """Check a loader's batches, then ``decode_jpegs``."""
    small = bench.gpu.rehearsal
    samples, size, side = (32, 8, 32) if small else (2048, 64, 224)
    for kind in ("jpeg", "half", "raw"):
        path = stored(bench, kind, bench.photos(), samples)

        def loader(path: Any = path) -> Any:
            return loader_of(path, size, device=bench.gpu.name, side=side, output="float16")

        right = [bench.gpu.host(batch[0]).copy() for batch in loader()]
        ways = {"read late": _read_late, "kept": _kept, "read late by another stream": _elsewhere,
                "written to memory that a step has freed": _after_a_step}  # fmt: skip
        for name, ask in ways.items():
            wrong = _wrong(ask(bench, loader()), right)
            yield check(f"{kind}: batches {name} are right", not wrong, wrong=wrong, of=len(right))
    yield from _decode_again(bench)


def _wrong(found: list[npt.NDArray[Any]], right: list[npt.NDArray[Any]]) -> list[int]:
    assert len(found) == len(right)
    return [k for k, (a, b) in enumerate(zip(found, right, strict=True)) if not np.array_equal(a, b)]


def _read_late(bench: Bench, loader: Any) -> list[npt.NDArray[Any]]:
    """Submit a slow reader for each batch and drop the batch immediately."""
    copies = []
    for batch in loader:
        bench.gpu.spin(BUSY_MILLISECONDS, None)
        copies.append(bench.gpu.clone(batch[0]))
        del batch
    return [bench.gpu.host(copy) for copy in copies]


def _kept(bench: Bench, loader: Any) -> list[npt.NDArray[Any]]:
    """Keep every batch and read all of them at the end."""
    kept = [batch[0] for batch in loader]
    bench.gpu.synchronize()
    return [bench.gpu.host(image).copy() for image in kept]


def _elsewhere(bench: Bench, loader: Any) -> list[npt.NDArray[Any]]:
    """Iterate with another stream current: the batches must be ready on that one."""
    copies = []
    with bench.gpu.current(bench.gpu.stream()):
        for batch in loader:
            bench.gpu.spin(BUSY_MILLISECONDS, None)
            copies.append(bench.gpu.clone(batch[0]))
            del batch
    bench.gpu.synchronize()
    return [bench.gpu.host(copy) for copy in copies]


def _after_a_step(bench: Bench, loader: Any) -> list[npt.NDArray[Any]]:
    """Free memory that queued work still writes to, as a training step does, before the loader starts."""
    gc.collect()  # frees memory of an earlier loader
    with_work = [bench.gpu.memory(megabytes << 20) for megabytes in DROPPED_MEGABYTES]
    for _ in range(STEPS):
        bench.gpu.spin(BUSY_MILLISECONDS / 10, None)
        for memory in with_work:
            bench.gpu.fill(memory, 0xAA)
    with_work.clear()
    copies = [bench.gpu.clone(batch[0]) for batch in loader]
    return [bench.gpu.host(copy) for copy in copies]


def _decode_again(bench: Bench) -> Iterator[Row]:
    """Decode different images repeatedly, and read each result late."""
    from ffcv_gpu import decode_jpegs

    files = bench.photos()
    sets = [files[k::3][:32] for k in range(3)]

    def decode(turn: int) -> Any:
        return decode_jpegs(sets[turn % 3], device=bench.gpu.name)[0]

    right = [[bench.gpu.host(image).copy() for image in decode(turn)] for turn in range(3)]
    copies = []
    for turn in range(ROUNDS):
        images = decode(turn)
        bench.gpu.spin(BUSY_MILLISECONDS, None)
        copies.append([bench.gpu.clone(image) for image in images])
        del images
    found = [[bench.gpu.host(image) for image in copied] for copied in copies]
    wrong = [turn for turn in range(ROUNDS) if _wrong(found[turn], right[turn % 3])]
    yield check("decode_jpegs: images read late are right", not wrong, wrong=wrong, of=ROUNDS)
