"""One epoch of a `Loader`, read from the file batch by batch."""

from __future__ import annotations

from ffcv_gpu.loader.bundle import Bundle
from ffcv_gpu.loader.careful import CarefulBatch, Maker
from ffcv_gpu.loader.course import Progress
from ffcv_gpu.loader.iterator import Batch, Run
from ffcv_gpu.loader.job import Engine
from ffcv_gpu.loader.policy import ErrorPolicy
from ffcv_gpu.plan import Planner

__all__ = ["StreamedRun"]


class StreamedRun(Run):
    """Reads, decodes and composes; see `Run`."""

    def __init__(
        self, engine: Engine, planner: Planner, policy: ErrorPolicy, progress: Progress, ahead: int
    ) -> None:
        counts = len(progress.course), engine.bundle, engine.workers, engine.in_flight, ahead
        super().__init__(*counts, engine.clock, planner.epoch)
        self._engine = engine
        # Not a method of this object: what an epoch holds is freed with it, without the garbage collector.
        ended = self.handoff.closed
        self._maker = Maker(engine, planner, policy, progress.course, self.executor, ended)

    def begin(self, index: int, count: int) -> Batch:
        """Start batches."""
        return CarefulBatch(self._maker, index) if count == 1 else Bundle(self._maker, index, count)

    def passed(self, index: int) -> None:
        """Release what was read for batches up to this one."""
        self._engine.dataset.reading.passed(index)

    def interrupt(self) -> None:
        """Abort all waits for the disk."""
        self._engine.dataset.reading.stop()

    def release(self) -> None:
        """Close the epoch's reader, and save the JPEG facts."""
        self._engine.dataset.reading.close()
        self._engine.dataset.keep_facts()
