"""How fast payloads are read: from storage, and from the system's page cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ffcv_gpu.doctor.survey import Survey
from ffcv_gpu.readers import PositionedReader
from ffcv_gpu.readers.base import ByteArray
from ffcv_gpu.steps import IntArray

__all__ = ["Disk", "ReadInto", "measure_disk"]

#: the most payloads sampled, and their total bytes
RANGES, BUDGET_BYTES = 96, 24 << 20
#: a file up to this size is dropped from the page cache as a whole; in larger ones, only the sampled payloads
#: and a margin that covers a huge page around them
WHOLE_BYTES, MARGIN_BYTES = 256 << 20, 2 << 20
#: the most threads that are compared with one
MOST_THREADS = 8


class ReadInto(Protocol):
    """The reader interface used here."""

    def read_into(self, offsets: IntArray, lengths: IntArray, out: ByteArray) -> None:
        """Fill `out` with the bytes of the ranges, one after another."""


@dataclass(frozen=True)
class Disk:
    """Speed of reading whole payloads in random order, in seconds per byte.

    Attributes
    ----------
    cold_one_thread, cold : float or None
        From storage, with one thread and with `threads`; None if the system drops no pages (a file system
        in memory).
    warm : float
        From the page cache, with one thread.
    threads : int
    cached : float or None
        Share of the sampled payloads that were in the page cache before any were read; None if unknown.
    """

    cold_one_thread: float | None
    cold: float | None
    warm: float
    threads: int
    cached: float | None


def measure_disk(survey: Survey, workers: int, reader: ReadInto | None = None) -> Disk:
    """Measure on a random sample of payloads; `reader` replaces the plain one for reads from storage.

    They are dropped from the system's page cache first; any that the system keeps do not count as cold.
    """
    chosen = _draw(survey)
    if not chosen.size:
        return Disk(None, None, 0.0, 1, None)
    plain, threads = PositionedReader(survey.path), max(1, min(workers, MOST_THREADS))
    read = (plain if reader is None else reader).read_into
    try:
        in_memory = _in_memory(plain.descriptor, survey, chosen)
        cached = None if in_memory is None else float(in_memory.mean())
        _drop(plain.descriptor, survey, chosen)
        still = _in_memory(plain.descriptor, survey, chosen)
        gone = chosen if still is None or reader is not None else chosen[~still]
        alone, together = gone[::2], gone[1::2]
        first = _seconds(read, survey, alone, 1) if alone.size else None
        second = _seconds(read, survey, together, threads) if together.size else first
        warm = min(_seconds(plain.read_into, survey, chosen, 1) for _ in range(3))
    finally:
        plain.close()
    return Disk(first, second, warm, threads, cached)


def _draw(survey: Survey) -> IntArray:
    """Return the rows of non-empty payloads in random order, within the budget (but two at least)."""
    rows = np.flatnonzero(survey.lengths > 0)
    rows = np.random.default_rng(0).permutation(rows)[:RANGES]
    rows = rows[np.cumsum(survey.lengths[rows]) <= max(BUDGET_BYTES, survey.lengths[rows][:2].sum())]
    return np.asarray(rows, np.int64)


def _seconds(
    read: Callable[[IntArray, IntArray, ByteArray], None],
    survey: Survey,
    rows: IntArray,
    threads: int,
) -> float:
    """Read `rows`, divided among `threads`; return seconds per byte."""
    shares = [rows[first::threads] for first in range(min(threads, rows.size))]
    outs = [np.zeros(int(survey.lengths[share].sum()), np.uint8) for share in shares]
    with ThreadPoolExecutor(len(shares)) as pool:
        list(pool.map(abs, range(len(shares))))  # starts the threads before the clock
        begin = perf_counter()
        work = [
            pool.submit(read, survey.offsets[share], survey.lengths[share], out)
            for share, out in zip(shares, outs, strict=True)
        ]
        for one in work:
            one.result()
        return (perf_counter() - begin) / sum(out.size for out in outs)


def _drop(descriptor: int, survey: Survey, rows: IntArray) -> None:
    """Ask the system to drop the pages of `rows` from its page cache."""
    os.fsync(descriptor)  # a file just written keeps its pages until they are on the disk
    if survey.file_bytes <= WHOLE_BYTES:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return
    for offset, length in zip(survey.offsets[rows].tolist(), survey.lengths[rows].tolist(), strict=True):
        start = max(0, offset - MARGIN_BYTES)
        end = offset + length + MARGIN_BYTES
        os.posix_fadvise(descriptor, start, end - start, os.POSIX_FADV_DONTNEED)


def _in_memory(descriptor: int, survey: Survey, rows: IntArray) -> npt.NDArray[np.bool_] | None:
    """Return for each of `rows` whether its middle is in the page cache; None if that cannot be told."""
    found, byte = np.zeros(rows.size, bool), bytearray(1)
    where = zip(survey.offsets[rows].tolist(), survey.lengths[rows].tolist(), strict=True)
    for row, (offset, length) in enumerate(where):
        try:
            found[row] = os.preadv(descriptor, [byte], offset + length // 2, os.RWF_NOWAIT) == 1
        except BlockingIOError:
            continue
        except OSError:
            return None  # this file system does not support RWF_NOWAIT
    return found
