"""A clock shared by all threads of a loader: seconds, calls and items per stage, and counts of routes.

The same spans are passed to watchers: NVTX, torch's profiler, a `Timeline`. Normally there are none, and
then a span costs two clock reads and three additions.
"""

from __future__ import annotations

import threading
from time import perf_counter
from types import TracebackType
from typing import Any

from ffcv_gpu.trace.statistics import StageStats, StageTime
from ffcv_gpu.trace.watchers import Mark, Watcher, nvtx_watcher, torch_records, torch_watcher

__all__ = ["StageClock"]

_NOTHING = (0.0, 0, 0)


class _Sums:
    """The totals that a clock shares with its copies for single batches."""

    def __init__(self) -> None:
        # One lock for all threads: 0.1 us without contention, and unlike per-thread accumulators it
        # leaves nothing behind when an epoch's threads end.
        self.lock = threading.Lock()
        self.watchers: tuple[Watcher, ...] = nvtx_watcher()
        self.reset()

    def reset(self) -> None:
        self.since = perf_counter()
        self.totals: dict[str, tuple[float, int, int]] = {}  # seconds, calls, items
        self.counts: dict[str, int] = {}


class StageClock:
    """Adds up seconds and counts per stage; thread-safe.

    Examples
    --------
    >>> clock = StageClock()
    >>> with clock.span("decode", items=2):
    ...     clock.count("jpeg: turbo", 2)
    >>> stats = clock.snapshot()
    >>> stats.stages["decode"].items, stats.counts
    (2, {'jpeg: turbo': 2})
    """

    def __init__(self) -> None:
        self._sums = _Sums()
        self._batch: tuple[int, int] | None = None

    def of_batch(self, index: int, epoch: int) -> StageClock:
        """Return a clock with the same totals whose spans are labelled, for watchers, with a batch."""
        clock = object.__new__(StageClock)
        clock._sums, clock._batch = self._sums, (epoch, index)
        return clock

    def span(self, stage: str, items: int = 0) -> _Span:
        """Return a context manager that adds the time spent inside to `stage`.

        The time also counts if the block raises. Spans may nest; an inner one's time counts in both.

        Parameters
        ----------
        stage : str
            Name of the stage, see `BETRAYS`.
        items : int
            Samples processed.
        """
        sums = self._sums
        if sums.watchers or torch_records():
            return _WatchedSpan(sums, Mark(stage, items, self._batch), sums.watchers + torch_watcher())
        return _Span(sums, stage, items)

    def count(self, what: str, items: int = 1) -> None:
        """Add `items` to the count of `what`; 0 adds no entry."""
        if items:
            counts = self._sums
            with counts.lock:
                counts.counts[what] = counts.counts.get(what, 0) + int(items)

    def snapshot(self) -> StageStats:
        """Return a copy of all totals so far, without spans that are still open."""
        sums = self._sums
        with sums.lock:
            stages = {name: StageTime(s, n, int(items)) for name, (s, n, items) in sums.totals.items()}
            return StageStats(perf_counter() - sums.since, stages, dict(sums.counts))

    @property
    def began(self) -> float:
        """When the clock was created or last reset, in seconds of `time.perf_counter`."""
        return self._sums.since

    def reset(self) -> None:
        """Clear all totals; spans that are open now are added when they end."""
        with self._sums.lock:
            self._sums.reset()

    def watch(self, watcher: Watcher) -> None:
        """Pass every span that begins from now on to `watcher`."""
        with self._sums.lock:
            self._sums.watchers = (*self._sums.watchers, watcher)

    def unwatch(self, watcher: Watcher) -> None:
        """Undo `watch`; `watcher` is still told when spans that are open now end."""
        with self._sums.lock:
            self._sums.watchers = tuple(other for other in self._sums.watchers if other is not watcher)


class _Span:
    __slots__ = ("_items", "_stage", "_start", "_sums")

    def __init__(self, sums: _Sums, stage: str, items: int) -> None:
        self._sums, self._stage, self._items = sums, stage, items

    def __enter__(self) -> None:
        self._start = perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._add(perf_counter() - self._start)

    def _add(self, seconds: float) -> None:
        sums, stage = self._sums, self._stage
        with sums.lock:
            total, calls, items = sums.totals.get(stage, _NOTHING)
            sums.totals[stage] = (total + seconds, calls + 1, items + self._items)


class _WatchedSpan(_Span):
    __slots__ = ("_mark", "_open", "_watchers")

    def __init__(self, sums: _Sums, mark: Mark, watchers: tuple[Watcher, ...]) -> None:
        super().__init__(sums, mark.stage, mark.items)
        self._mark, self._watchers = mark, watchers

    def __enter__(self) -> None:
        self._open: list[Any] = [watcher.begin(self._mark) for watcher in self._watchers]
        super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = perf_counter() - self._start
        self._add(seconds)
        for watcher, begun in zip(reversed(self._watchers), reversed(self._open), strict=True):
            watcher.end(self._mark, begun, self._start, seconds)
