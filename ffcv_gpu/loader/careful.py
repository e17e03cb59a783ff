"""One batch of an epoch, rebuilt without its bad samples until all samples in it are good."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor

import numpy as np

from ffcv_gpu.loader.course import Course
from ffcv_gpu.loader.faults import during
from ffcv_gpu.loader.job import BatchJob, Engine, Made
from ffcv_gpu.loader.policy import ErrorPolicy, Exclusions
from ffcv_gpu.plan import BatchPlan, Planner

__all__ = ["CarefulBatch"]


class CarefulBatch:
    """Batch `index` of a course: started at construction, collected by `result`.

    Parameters
    ----------
    engine : Engine
    planner : Planner
    policy : ErrorPolicy
    course : Course
    index : int
    executor : Executor
        The worker threads.
    ended : callable
        Returns True once the epoch has been closed.
    """

    def __init__(
        self,
        engine: Engine,
        planner: Planner,
        policy: ErrorPolicy,
        course: Course,
        index: int,
        executor: Executor,
        ended: Callable[[], bool],
    ) -> None:
        self._engine, self._planner, self._policy, self._course = engine, planner, policy, course
        self.index, self._executor, self._ended = index, executor, ended
        self._own = Exclusions()
        self._rows_only = {program.field for program in engine.programs if program.decoder.gives_rows}
        self._job = self._begin()

    def _begin(self) -> BatchJob:
        self._engine.dataset.check_file()
        return BatchJob(self._engine, self._plan(), self._executor, self._ended)

    def _plan(self) -> BatchPlan:
        positions, order = self._course.positions(self.index), self._course.order
        with (
            self._engine.clock.of_batch(self.index, self._planner.epoch).span("plan", items=positions.size),
            during(lambda: f"while planning batch {self.index} of this epoch"),
        ):
            samples, blank = self._policy.choose(order, positions, self._own)
            self._replaced = int(np.count_nonzero(samples != order[positions]))
            # A field that no output uses is not read, so it cannot be bad.
            blank = {name: rows for name, rows in blank.items() if name in self._planner.fields}
            self._blank = sum(rows.size for rows in blank.values())
            return self._planner.plan(self.index, samples, blank)

    def result(self) -> Made:
        """Wait for the batch; raise bad samples' errors if the policy says so, and all other exceptions."""
        while faults := self._job.wait():
            self._engine.dataset.check_file()  # if the file was truncated, no sample is to blame
            self._policy.judge(faults, self._own, self._rows_only)
            self._job = self._begin()
        self._policy.count(self._replaced, self._blank)
        return self._job.made()

    def cancel(self) -> None:
        """Cancel what has not started."""
        self._job.cancel()

    def settle(self) -> None:
        """See `BatchJob.settle`."""
        self._job.settle()
