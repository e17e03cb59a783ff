"""E16: the cost of the CPU's part of the loader: reading the page cache, and checksums."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks.gpu.bench import Bench, Row, timed
from benchmarks.gpu.datasets import stored
from ffcv_gpu.format import open_beton
from ffcv_gpu.kernels import crc32c_cpu
from ffcv_gpu.readers import MappedReader, PositionedReader

__all__ = ["run"]

THREADS = (1, 2, 4, 16)
FIELD = "image"


def run(bench: Bench) -> Iterator[Row]:
    """Read batches in random order into pinned and pageable memory, with one and more threads."""
    path = str(stored(bench, "jpeg", bench.photos(), bench.scale.samples))
    beton = open_beton(path)
    offsets, lengths = beton.offsets(FIELD).astype(np.int64), beton.lengths(FIELD).astype(np.int64)
    order = np.random.default_rng(0).permutation(offsets.size)
    batches = np.array_split(order, max(1, offsets.size // bench.scale.batch))
    largest = max(int(lengths[batch].sum()) for batch in batches)
    readers = {"memory map": MappedReader(path, beton.data), "pread": PositionedReader(path)}
    for threads in (n for n in THREADS if n <= len(os.sched_getaffinity(0))):
        memory = {"pinned": [bench.gpu.pinned(largest) for _ in range(threads)],
                  "pageable": [bench.gpu.pageable(largest) for _ in range(threads)]}  # fmt: skip
        for name, reader in readers.items():
            for kind, targets in memory.items():

                def read(batch: Any, target: Any, reader: Any = reader) -> None:
                    reader.read_into(offsets[batch], lengths[batch], target[: int(lengths[batch].sum())])

                yield from _timed(bench, f"{name} to {kind} memory", batches, lengths, targets, read)

        def check(batch: Any, target: Any) -> None:
            sizes = lengths[batch]
            crc32c_cpu.checksums(target, np.cumsum(sizes) - sizes, sizes)

        if crc32c_cpu.USABLE:
            yield from _timed(bench, "checksums of pinned memory", batches, lengths, memory["pinned"], check)


def _timed(
    bench: Bench, what: str, batches: list[Any], lengths: Any, targets: list[Any], work: Callable[..., None]
) -> Iterator[Row]:
    threads = len(targets)

    def share(k: int) -> None:
        for batch in batches[k::threads]:
            work(batch, targets[k])

    with ThreadPoolExecutor(threads) as pool:

        def turn() -> dict[str, float]:
            list(pool.map(share, range(threads)))
            return {"images": float(lengths.size), "megabytes": float(lengths.sum()) / 1e6}

        yield from timed(bench, f"{what}, {threads} threads", turn, threads=threads)
