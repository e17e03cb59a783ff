"""Reads whole pages ahead, in the epoch's order, into bounded memory (``os_cache=False``)."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import CancelledError

import numpy as np

from ffcv_gpu.readers.base import ByteArray, EpochRanges, RangeReader, Reader
from ffcv_gpu.readers.paged.cache import PageCache
from ffcv_gpu.readers.paged.schedule import PageSchedule, plan_pages
from ffcv_gpu.readers.paged.storage import Arena, Pages
from ffcv_gpu.steps import IntArray

__all__ = ["PagedEpoch", "PagedReader"]

logger = logging.getLogger(__name__)

#: share of an epoch's bytes that may be read payload by payload without a warning
UNWORTHY_OF_A_WARNING = 0.02


class PagedReader:
    """A reader with a page cache for each running epoch; outside an epoch it reads range by range.

    Parameters
    ----------
    path : str
        For messages.
    ranges : Reader
        Reads ranges that are in no page of the cache.
    file : Pages
    page_bytes : int
        Size of the file's pages.
    cache_bytes : int
        Maximum memory for the pages of one running epoch; released when it ends.
    sharers : int
        Number of processes that share one order's samples; see `plan_pages`.
    """

    def __init__(
        self,
        path: str,
        ranges: Reader,
        file: Pages,
        *,
        page_bytes: int,
        cache_bytes: int,
        sharers: int = 1,
    ) -> None:
        self.path, self.ranges, self.file = path, ranges, file
        self.page_bytes, self.capacity, self.sharers = page_bytes, cache_bytes // page_bytes, sharers
        self._said = False

    def locate(self, offsets: IntArray, lengths: IntArray) -> None:
        """Return None: outside an epoch, nothing is kept in memory."""

    def read_into(self, offsets: IntArray, lengths: IntArray, out: ByteArray) -> None:
        """Fill `out` with the ranges one after another."""
        self.ranges.read_into(offsets, lengths, out)

    def view(self, offset: int, length: int) -> ByteArray:
        """Return one range in newly allocated memory."""
        return self.ranges.view(offset, length)

    def begin(self, ranges: EpochRanges) -> PagedEpoch:
        """Return a reader that reads one epoch's pages ahead, once its first batch is read."""
        return PagedEpoch(self, ranges)

    def close(self) -> None:
        """Close the file."""
        self.file.close()
        self.ranges.close()

    def say_what_does_not_fit(self, schedule: PageSchedule) -> None:
        """Warn, once, if the cache is too small for the order."""
        share = schedule.single_bytes / max(schedule.shown_bytes, 1)
        fits = schedule.wanted <= schedule.capacity or share <= UNWORTHY_OF_A_WARNING
        if self._said or fits or not self.capacity:
            return
        self._said = True
        logger.warning(
            "%s: %.0f %% of the bytes are read payload by payload and not ahead, because this order has %d "
            "pages of %.0f MB open at a time and the cache holds %d; cache_gb=%.2f is enough. RANDOM opens "
            "all pages; QUASI_RANDOM those of its pool and of two batches",
            *(self.path, 100 * share, schedule.wanted, self.page_bytes / 1e6, schedule.capacity),
            np.ceil(schedule.wanted * self.page_bytes / 1e7) / 100,
        )


class PagedEpoch:
    """The page cache of one epoch. Scheduling and reading ahead start when the first batch is read."""

    def __init__(self, reader: PagedReader, ranges: EpochRanges) -> None:
        self._reader, self._ranges = reader, ranges
        self._lock = threading.RLock()  # re-entrant: the epoch may be dropped while this thread holds it
        self._stopped = False
        self._cache: PageCache | None = None
        self._schedule: PageSchedule | None = None

    def batch(self, index: int) -> RangeReader:
        """Return the reader for batch `index`."""
        return _BatchReader(self, self._reader.ranges, index)

    def ready(self) -> tuple[PageSchedule, PageCache | None]:
        """Return the schedule and, if there are pages to read, the cache; starts it on the first call.

        Raises
        ------
        CancelledError
            If the epoch was closed.
        """
        with self._lock:
            if self._stopped:
                raise CancelledError(
                    f"{self._reader.path}: the epoch was closed while a batch was being read"
                )
            if self._schedule is None:
                self._schedule = self._start()
            return self._schedule, self._cache

    def _start(self) -> PageSchedule:
        reader = self._reader
        schedule = plan_pages(self._ranges, reader.page_bytes, reader.capacity, reader.sharers)
        reader.say_what_does_not_fit(schedule)
        if len(schedule):
            # Not kept for the next epoch: a dropped loader would hold it until the garbage collector runs.
            arena = Arena(min(reader.capacity, len(schedule)), reader.page_bytes)
            self._cache = PageCache(reader.path, reader.file, schedule, arena)
        return schedule

    def passed(self, index: int) -> None:
        """Free the pages that no batch after `index` needs."""
        cache = self._cache  # another thread may close the epoch meanwhile
        if cache is not None:
            cache.passed(index)

    def stop(self) -> None:
        """End reading ahead, and every wait for a page."""
        with self._lock:
            self._stopped, cache = True, self._cache
        if cache is not None:
            cache.stop()

    def close(self) -> None:
        """Release threads and memory; call it after `stop`, when no batch is being read any more."""
        cache, self._cache = self._cache, None
        if cache is not None:
            cache.close()


class _BatchReader:
    """The reader for one batch of an epoch."""

    def __init__(self, epoch: PagedEpoch, ranges: RangeReader, index: int) -> None:
        self._epoch, self._ranges, self._index = epoch, ranges, index

    def _find(self, offsets: IntArray, lengths: IntArray) -> tuple[ByteArray | None, IntArray]:
        """Wait for the pages; return their memory and each range's offset in it, -1 if it is not there."""
        schedule, cache = self._epoch.ready()
        reads = schedule.find(self._index, offsets, lengths)
        positions = np.where(lengths > 0, np.int64(-1), 0)
        if cache is None:
            return None, positions
        known = np.flatnonzero(reads >= 0)
        there, shifts = cache.wait(reads[known])
        positions[known[there]] = offsets[known[there]] + shifts[there]
        return cache.memory, positions

    def locate(self, offsets: IntArray, lengths: IntArray) -> tuple[ByteArray, IntArray] | None:
        """Return the page buffers and the ranges' offsets in them; None if a range is not there."""
        memory, positions = self._find(offsets, lengths)
        return None if memory is None or (positions < 0).any() else (memory, positions)

    def read_into(self, offsets: IntArray, lengths: IntArray, out: ByteArray) -> None:
        """Fill `out` from page buffers; ranges that are in none are read from the file."""
        from ffcv_gpu.kernels.copy_cpu import copy_ranges

        memory, positions = self._find(offsets, lengths)
        single = positions < 0
        edges = np.flatnonzero(np.diff(single, prepend=~single[:1], append=~single[-1:]))
        at = 0
        for lo, hi in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            size = int(lengths[lo:hi].sum())
            if single[lo]:
                self._ranges.read_into(offsets[lo:hi], lengths[lo:hi], out[at : at + size])
            elif memory is not None:
                copy_ranges(memory, positions[lo:hi], lengths[lo:hi], out[at : at + size])
            at += size

    def view(self, offset: int, length: int) -> ByteArray:
        """Return one range in newly allocated memory, because page buffers are reused."""
        return self._ranges.view(offset, length)
