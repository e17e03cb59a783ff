"""One epoch of a `Loader`: what is made in the epoch's thread, batch by batch, out of the file."""

from __future__ import annotations

from ffcv_gpu.loader.careful import CarefulBatch
from ffcv_gpu.loader.course import Progress
from ffcv_gpu.loader.iterator import Run
from ffcv_gpu.loader.job import Engine
from ffcv_gpu.loader.policy import ErrorPolicy
from ffcv_gpu.plan import Planner

__all__ = ["StreamedRun"]


class StreamedRun(Run):
    """Reads, decodes and composes; see `Run`."""

    def __init__(
        self, engine: Engine, planner: Planner, policy: ErrorPolicy, progress: Progress, ahead: int
    ) -> None:
        counts = len(progress.course), engine.workers, engine.in_flight, ahead
        super().__init__(*counts, engine.clock, planner.epoch)
        self._engine, self._planner, self._policy = engine, planner, policy
        self._course = progress.course

    def begin(self, index: int) -> CarefulBatch:
        """Begin a batch."""
        parts = (self._engine, self._planner, self._policy, self._course)
        return CarefulBatch(*parts, index, self.executor, self.ended)

    def passed(self, index: int) -> None:
        """Let go of what was read for a batch."""
        self._engine.dataset.reading.passed(index)

    def interrupt(self) -> None:
        """Let nobody wait for the disk any more."""
        self._engine.dataset.reading.stop()

    def release(self) -> None:
        """Give back what the epoch was read with."""
        self._engine.dataset.reading.close()
        self._engine.dataset.keep_facts()
