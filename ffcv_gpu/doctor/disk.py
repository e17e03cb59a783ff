"""How fast payloads come from storage: not in memory yet, and from the system's page cache."""

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

#: payloads looked at, and the bytes read for one number
RANGES, BUDGET_BYTES = 96, 24 << 20
#: a file up to this size is dropped from the page cache as a whole; of others, the payloads and what may
#: lie in one large page with them
WHOLE_BYTES, MARGIN_BYTES = 256 << 20, 2 << 20
#: threads that are tried against one
MOST_THREADS = 8


class ReadInto(Protocol):
    """What is asked of a reader here."""

    def read_into(self, offsets: IntArray, lengths: IntArray, out: ByteArray) -> None:
        """Fill `out` with the ranges."""


@dataclass(frozen=True)
class Disk:
    """Reading of whole payloads in random order, seconds a byte.

    Attributes
    ----------
    cold_one_thread, cold : float or None
        With one thread, and with `threads`, from storage; None if the system lets go of no page (a file
        system in memory).
    warm : float
        With one thread, from the page cache.
    cached : float or None
        Share of the payloads that lay in the page cache before we read anything; None if unknown.
    """

    cold_one_thread: float | None
    cold: float | None
    warm: float
    threads: int
    cached: float | None


def measure_disk(survey: Survey, workers: int, reader: ReadInto | None = None) -> Disk:
    """Measure on payloads drawn from the file; `reader` stands in for the plain one.

    They are dropped from the system's page cache before; what the system keeps is not measured as cold.
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
    """Return payloads in random order, some with bytes in them, within the budget."""
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
    """Read `rows`, dealt to `threads`; return the seconds for each byte."""
    shares = [rows[first::threads] for first in range(min(threads, rows.size))]
    outs = [np.zeros(int(survey.lengths[share].sum()), np.uint8) for share in shares]  # pages exist already
    with ThreadPoolExecutor(len(shares)) as pool:
        list(pool.map(abs, range(len(shares))))  # threads exist already
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
    os.fsync(descriptor)  # of a file just written, pages stay until they are on the disk
    if survey.file_bytes <= WHOLE_BYTES:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return
    for offset, length in zip(survey.offsets[rows].tolist(), survey.lengths[rows].tolist(), strict=True):
        start = max(0, offset - MARGIN_BYTES)
        end = offset + length + MARGIN_BYTES
        os.posix_fadvise(descriptor, start, end - start, os.POSIX_FADV_DONTNEED)


def _in_memory(descriptor: int, survey: Survey, rows: IntArray) -> npt.NDArray[np.bool_] | None:
    """Return for each of `rows` whether its middle lies in the page cache; None if no one can tell."""
    found, byte = np.zeros(rows.size, bool), bytearray(1)
    where = zip(survey.offsets[rows].tolist(), survey.lengths[rows].tolist(), strict=True)
    for row, (offset, length) in enumerate(where):
        try:
            found[row] = os.preadv(descriptor, [byte], offset + length // 2, os.RWF_NOWAIT) == 1
        except BlockingIOError:
            continue
        except OSError:
            return None  # this file system has no such question
    return found
