"""Where the time goes: seconds, calls and items of each stage, and counts of what was done how.

A `StageClock` is filled by all threads of a loader; `StageClock.snapshot` gives a `StageStats`, which
prints as a table whose last column says which bottleneck a large number betrays.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from time import perf_counter
from types import TracebackType
from typing import Any

__all__ = ["BETRAYS", "StageClock", "StageStats", "StageTime"]

#: for each stage of a loader: what it means if most of the time goes there
BETRAYS: Mapping[str, str] = {
    "plan": "one thread draws all parameters: batches too small, or a costly step of your own",
    "read": "storage: not in the page cache, a slow disk or network; a smaller file or more memory",
    "check": "checksums: memory bandwidth, or pages that are first touched here and come from disk",
    "gather": "big arrays or bytes fields: memory bandwidth; store a smaller dtype or shape",
    "decode": "JPEG decoding: too few cores, or images stored larger than the crops need",
    "compose": "resampling and augmentation: too few cores, or a large output size or source crops",
    "finish": "steps after the fused launch: torch modules, reshapes, or copies that `explain()` names",
    "wait": "the loader is slower than your loop: look at the largest other stage",
}

_NOTHING = (0.0, 0, 0)


@dataclass(frozen=True)
class StageTime:
    """What one stage has used since the clock was made or reset.

    Attributes
    ----------
    seconds : float
        Wall-clock seconds inside the stage, summed over threads: with 8 threads up to 8 a second. The
        largest of the worker stages is the bottleneck while ``wait`` is large.
    calls : int
        How often the stage was entered, also when it failed. Many calls of few items each betray batches
        cut too fine to pay for their overhead.
    items : int
        Samples (or outputs of samples) that went through. Fewer than expected betrays work that is
        skipped or shared, more betrays work done twice.
    """

    seconds: float
    calls: int
    items: int

    @property
    def microseconds_per_item(self) -> float:
        """Microseconds of one core per item, nan without items; to compare with a bare decode or resize.

        Far above what the stage costs alone, it betrays threads that fight for cores, memory or the GIL.
        """
        return self.seconds * 1e6 / self.items if self.items else float("nan")


@dataclass(frozen=True)
class StageStats:
    """A copy of a `StageClock` at one moment; prints as a table.

    Attributes
    ----------
    elapsed_seconds : float
        Wall-clock seconds since the clock was made or reset. A stage's seconds divided by this is the
        number of threads it kept busy; a sum far below the number of workers betrays a loader that waits
        for its consumer.
    stages : dict of str to StageTime
        By stage, in the order in which they were first left.
    counts : dict of str to int
        How many items took which route, such as ``"jpeg: turbo"`` or ``"raw: from the file"``. An
        unexpected route betrays a fallback or a file that is not stored as you think.
    """

    elapsed_seconds: float
    stages: Mapping[str, StageTime]
    counts: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return the same as dicts and numbers, new memory, fit for `json.dumps`."""
        return asdict(self)

    def __str__(self) -> str:
        rows = [("stage", "seconds", "calls", "items", "us/item", "if large")]
        for name, time in sorted(self.stages.items(), key=lambda stage: -stage[1].seconds):
            each = f"{time.microseconds_per_item:.1f}" if time.items else "-"
            seconds, calls, items = f"{time.seconds:.3f}", str(time.calls), str(time.items)
            rows.append((name, seconds, calls, items, each, BETRAYS.get(name, "")))
        lines = [f"{self.elapsed_seconds:.3f} s since the clock was reset; seconds are summed over threads"]
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        for row in rows:
            numbers = (cell.rjust(width) for cell, width in zip(row[1:5], widths[1:], strict=True))
            lines.append("  ".join([row[0].ljust(widths[0]), *numbers, row[5]]).rstrip())
        widest = max(map(len, self.counts), default=0)
        lines += [f"{name.ljust(widest)}  {count}" for name, count in sorted(self.counts.items())]
        return "\n".join(lines)


class StageClock:
    """Adds up seconds and counts of stages; any number of threads may use one at the same time.

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
        # One lock for all threads: 0.1 us without contention, and unlike accumulators of their own it
        # leaves nothing behind when the threads of an epoch end.
        self._lock = threading.Lock()
        self.reset()

    def span(self, stage: str, items: int = 0) -> _Span:
        """Return a context manager that adds the time spent inside to `stage`.

        The time counts also if the block raises; spans may nest, an inner one is counted in both.

        Parameters
        ----------
        stage : str
            Name of the stage, see `BETRAYS`.
        items : int
            Samples that go through.
        """
        return _Span(self, stage, items)

    def count(self, what: str, items: int = 1) -> None:
        """Add `items` to the count of `what`; nothing is listed for 0."""
        if items:
            with self._lock:
                self._counts[what] = self._counts.get(what, 0) + int(items)

    def snapshot(self) -> StageStats:
        """Return all sums so far, a copy; spans that are still open are not in it."""
        with self._lock:
            stages = {name: StageTime(s, n, int(items)) for name, (s, n, items) in self._totals.items()}
            return StageStats(perf_counter() - self._since, stages, dict(self._counts))

    def reset(self) -> None:
        """Forget everything; spans that are open now are added when they end."""
        with self._lock:
            self._since = perf_counter()
            self._totals: dict[str, tuple[float, int, int]] = {}  # seconds, calls, items
            self._counts: dict[str, int] = {}


class _Span:
    __slots__ = ("_clock", "_items", "_stage", "_start")

    def __init__(self, clock: StageClock, stage: str, items: int) -> None:
        self._clock, self._stage, self._items = clock, stage, items

    def __enter__(self) -> None:
        self._start = perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = perf_counter() - self._start
        clock, stage = self._clock, self._stage
        with clock._lock:
            total, calls, items = clock._totals.get(stage, _NOTHING)
            clock._totals[stage] = (total + seconds, calls + 1, items + self._items)
