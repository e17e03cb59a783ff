"""Plans which pages an epoch reads, when, and how long each stays: a pure function of the epoch's order.

The order is known in advance, so nothing is guessed. A page is read once for all its uses and kept until the
last. If between two uses as many bytes are used as the whole cache holds, the page is read again. Of pages
that do not fit together, those that would stay longest are left out. Their payloads, and those of pages of
which too little is used, are read one by one. So no order thrashes.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ffcv_gpu.readers.base import EpochRanges
from ffcv_gpu.steps import IntArray

__all__ = ["WORTH_READING", "PageSchedule", "plan_pages"]

#: A page is read, from its first to its last used payload, if at least this share of the bytes is used: on an
#: SSD, reading the rest as well then costs about as much as reading one by one; on a hard disk, less.
WORTH_READING = 0.25


@dataclass(frozen=True)
class PageSchedule:
    """The page reads of one epoch in the order of execution; arrays are int64 (reads,).

    Attributes
    ----------
    pages : page number of each read; a page may be read several times
    begins, ends : the range of the file that is read, all in that page
    firsts, lasts : first and last batch that the read serves; its memory is needed from
        ``firsts - in_flight + 1`` (when that batch may begin) until `lasts` has passed
    capacity : number of pages that fit
    wanted : most pages open at the same time, that is, between their first and their last use
    shown_bytes, single_bytes : payload bytes used in the epoch, and how many of them are read one by one
    """

    pages: IntArray
    begins: IntArray
    ends: IntArray
    firsts: IntArray
    lasts: IntArray
    capacity: int
    wanted: int
    shown_bytes: int
    single_bytes: int
    page_bytes: int
    _by_page: IntArray  # reads sorted by page, then first batch
    _keys: IntArray

    def __len__(self) -> int:
        return int(self.pages.size)

    def find(self, batch: int, offsets: IntArray, lengths: IntArray) -> IntArray:
        """Return the read that holds each range for `batch`, int64 (n,); -1 for ranges in no page read."""
        if not len(self):
            return np.full(offsets.size, -1, np.int64)
        keys = _key(offsets // self.page_bytes, np.int64(batch))
        place = np.maximum(np.searchsorted(self._keys, keys, side="right") - 1, 0)
        found = self._by_page[place]
        held = (self.begins[found] <= offsets) & (offsets + lengths <= self.ends[found])
        held &= (self.firsts[found] <= batch) & (batch <= self.lasts[found])
        return np.where(held, found, -1)


@dataclass(frozen=True)
class _Uses:
    """Payloads sorted by page and batch: their page, batch, and range of the file."""

    pages: IntArray
    batches: IntArray
    begins: IntArray
    ends: IntArray


def plan_pages(ranges: EpochRanges, page_bytes: int, capacity: int, sharers: int = 1) -> PageSchedule:
    """Return the page reads of an epoch.

    Parameters
    ----------
    ranges : EpochRanges
    page_bytes : int
        Page size; pages begin at the start of the file. Payloads that cross a page boundary (FFCV writes
        none) are in no page read.
    capacity : int
        Number of pages that fit into memory, >= 0.
    sharers : int
        Number of processes that share one order's samples in turn: if its open pages fit, the other processes
        use the rest of each page, which the system's page cache holds for all of them.
    """
    uses, shown_at, total = _uses(ranges, page_bytes)
    runs = _runs(uses, shown_at, page_bytes * capacity)
    used = np.add.reduceat(uses.ends - uses.begins, runs) if runs.size else runs
    begins = np.minimum.reduceat(uses.begins, runs) if runs.size else runs
    ends = np.maximum.reduceat(uses.ends, runs) if runs.size else runs
    pages, firsts = uses.pages[runs], uses.batches[runs]
    lasts = uses.batches[np.append(runs[1:], uses.pages.size) - 1] if runs.size else runs
    # A single payload gains nothing from a page, unless it is so large that reading it ahead matters.
    several = np.diff(np.append(runs, uses.pages.size)) > 1
    wanted = _open_at_once(uses, ranges.in_flight)
    least = WORTH_READING / sharers if wanted <= capacity else WORTH_READING
    enough = (used >= least * (ends - begins)) & (several | (used >= least * page_bytes))
    worth = np.flatnonzero(enough)
    worth = worth[np.lexsort((pages[worth], firsts[worth]))]
    starts = firsts - (ranges.in_flight - 1)
    chosen = worth[_fitting(starts[worth], lasts[worth], used[worth], capacity)]
    by_page = np.lexsort((firsts[chosen], pages[chosen]))
    return PageSchedule(
        *(pages[chosen], begins[chosen], ends[chosen], firsts[chosen], lasts[chosen]),
        capacity=capacity,
        wanted=wanted,
        shown_bytes=total,
        single_bytes=total - int(used[chosen].sum()),
        page_bytes=page_bytes,
        _by_page=by_page,
        _keys=_key(pages[chosen][by_page], firsts[chosen][by_page]),
    )


def _key(pages: IntArray, batches: IntArray | np.int64) -> IntArray:
    """Return numbers that sort by page, then batch."""
    key: IntArray = (pages << 32) | batches
    return key


def _uses(ranges: EpochRanges, page_bytes: int) -> tuple[_Uses, IntArray, int]:
    """Return all payloads of the epoch, the bytes used before each batch, and the bytes used in total."""
    count = len(ranges.batches)
    ids, batches = ranges.flat()
    shown = np.zeros(count + 1, np.int64)
    columns: list[tuple[IntArray, ...]] = [(np.zeros(0, np.int64),) * 4]
    for offsets, lengths in ranges.fields:
        begins, sizes = offsets[ids], lengths[ids]
        shown[1:] += np.bincount(batches, weights=sizes, minlength=count).astype(np.int64)
        pages = begins // page_bytes
        fine = (sizes > 0) & (begins >= 0) & ((begins + sizes - 1) // page_bytes == pages)
        columns.append((pages[fine], batches[fine], begins[fine], (begins + sizes)[fine]))
    pages, batches, begins, ends = (np.concatenate(column) for column in zip(*columns, strict=True))
    order = np.argsort(_key(pages, batches), kind="stable")
    shown = np.cumsum(shown)
    return _Uses(pages[order], batches[order], begins[order], ends[order]), shown, int(shown[-1])


def _runs(uses: _Uses, shown_at: IntArray, cache_bytes: int) -> IntArray:
    """Return the start in `uses` of each run of uses that one read of a page serves."""
    if not uses.pages.size:
        return np.zeros(0, np.int64)
    between = shown_at[uses.batches[1:]] - shown_at[np.minimum(uses.batches[:-1] + 1, uses.batches[1:])]
    cut = (uses.pages[1:] != uses.pages[:-1]) | (between > cache_bytes)
    begins: IntArray = np.flatnonzero(np.append(True, cut))
    return begins


def _fitting(starts: IntArray, lasts: IntArray, used: IntArray, capacity: int) -> npt.NDArray[np.bool_]:
    """Choose among spans [starts, lasts], sorted by start, so that at most `capacity` overlap at each batch.

    Whenever one too many is open, the one that ends last is removed: this keeps as many spans as possible.
    """
    kept = np.ones(starts.size, np.bool_)
    by_last: list[tuple[int, int, int]] = []  # open spans, the one that ends last on top; some have ended
    open_until: list[int] = []  # the ends of these spans, the next one on top; some have been removed
    thrown: dict[int, int] = {}
    open_now = 0
    for number, (start, last, size) in enumerate(
        zip(starts.tolist(), lasts.tolist(), used.tolist(), strict=True)
    ):
        while open_until and open_until[0] < start:
            end = heapq.heappop(open_until)
            if thrown.get(end, 0):
                thrown[end] -= 1
            else:
                open_now -= 1
        heapq.heappush(open_until, last)
        heapq.heappush(by_last, (-last, size, number))
        open_now += 1
        if open_now > capacity:
            end, _, which = heapq.heappop(by_last)
            kept[which] = False
            thrown[-end] = thrown.get(-end, 0) + 1
            open_now -= 1
    return kept


def _open_at_once(uses: _Uses, in_flight: int) -> int:
    """Return the largest number of pages that are open, from first to last use, at the same time."""
    if not uses.pages.size:
        return 0
    change = uses.pages[1:] != uses.pages[:-1]
    opened = np.sort(uses.batches[np.append(True, change)]) - (in_flight - 1)
    closed = np.sort(uses.batches[np.append(change, True)])
    return int((np.arange(1, opened.size + 1) - np.searchsorted(closed, opened, side="left")).max())
