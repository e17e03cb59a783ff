"""What happened in an interval, and which stage was the bottleneck, in one sentence."""

from __future__ import annotations

from types import TracebackType

from ffcv_gpu.trace.clock import StageClock
from ffcv_gpu.trace.statistics import StageStats, StageTime, betrays

__all__ = ["Profile", "bottleneck"]

#: a loop that waits for less than this share of its time is not limited by the loader
WAITS_LITTLE = 0.1
#: workers that are busy for less than this share of their time are not the bottleneck
MOSTLY_BUSY = 0.5
#: stages that run in one thread each, which more workers do not speed up
ONE_THREAD = ("plan", "submit", "finish", "launch")
WAITS = ("wait", "ahead")
_NONE = StageTime(0.0, 0, 0)


class Profile:
    """Stages and waits since creation or `restart`, until `stop`, the end of a ``with`` block, or now.

    `Loader.profile` makes it. Printing it, even in the middle of an epoch, shows the sentence and the table
    of stages. In a process's first epoch, stages also load or compile their kernels: profile a later one.

    Attributes
    ----------
    bottleneck : str
        One sentence on what limited the loop's speed.

    Examples
    --------
    >>> with loader.profile() as profile:                      # doctest: +SKIP
    ...     for images, labels in loader: ...
    >>> print(profile.bottleneck)                              # doctest: +SKIP
    """

    def __init__(self, clock: StageClock, workers: int) -> None:
        self._clock, self._workers = clock, workers
        self.restart()

    def restart(self) -> None:
        """Begin the interval now, and reopen it if it was stopped."""
        self._stopped: StageStats | None = None
        self._since, self._begin = self._clock.began, self._clock.snapshot()

    def stop(self) -> None:
        """End the interval now."""
        self._stopped = self.stats()

    def stats(self) -> StageStats:
        """Return the totals of the interval, without spans that were still open at its end."""
        if self._stopped is not None:
            return self._stopped
        now = self._clock.snapshot()
        return now if self._clock.began != self._since else now.since(self._begin)  # reset in between

    @property
    def bottleneck(self) -> str:
        """One sentence on what limited the loop's speed."""
        return bottleneck(self.stats(), self._workers)

    def __enter__(self) -> Profile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __str__(self) -> str:
        stats = self.stats()
        return f"{bottleneck(stats, self._workers)}\n{stats}"

    __repr__ = __str__


def bottleneck(stats: StageStats, workers: int) -> str:
    """Return one sentence that names the bottleneck of a loader with `workers` threads."""
    elapsed, waited = stats.elapsed_seconds, stats.stages.get("wait", _NONE).seconds
    busy = {name: stage.seconds for name, stage in stats.stages.items() if name not in WAITS}
    if not busy or elapsed <= 0:
        return "nothing was loaded in this interval"
    share = waited / elapsed
    if share < WAITS_LITTLE:
        ahead = stats.stages.get("ahead", _NONE).seconds / elapsed
        return (
            f"your loop is the bottleneck: it waited for batches {share:.0%} of the time, and the loader "
            f"waited for your loop {ahead:.0%} of it"
        )
    # If a GPU decodes, "decode" is the wait for it, in the one thread that collects batches.
    alone = {*ONE_THREAD, *(["decode"] if "submit" in busy else [])}
    name = max(busy, key=lambda stage: busy[stage] / (1 if stage in alone else workers))
    threads = 1 if name in alone else workers
    total = sum(seconds for stage, seconds in busy.items() if stage not in alone) / workers / elapsed
    text = (
        f"the loader is the bottleneck: your loop waited {share:.0%} of the time; its largest stage is "
        f"{name!r}, {busy[name] / threads / elapsed:.0%} of the time of {_threads(threads)}"
    )
    if max(total, busy[name] / threads / elapsed) < MOSTLY_BUSY:
        return f"{text}; its threads were otherwise idle: few batches, or too few CPUs"
    meaning = betrays(name, busy)
    return f"{text} ({meaning})" if meaning else text


def _threads(number: int) -> str:
    return "its one thread" if number == 1 else f"{number} threads"
