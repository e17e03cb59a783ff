"""One batch of an epoch, rebuilt without its bad samples until all samples in it are good."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from ffcv_gpu.loader.course import Course
from ffcv_gpu.loader.faults import during
from ffcv_gpu.loader.job import BatchJob, Engine, Made
from ffcv_gpu.loader.policy import ErrorPolicy, Exclusions
from ffcv_gpu.plan import BatchPlan, Planner

__all__ = ["CarefulBatch", "Maker"]


@dataclass(frozen=True)
class Maker:
    """Plans and starts the batches of one epoch.

    Attributes
    ----------
    engine : Engine
    planner : Planner
    policy : ErrorPolicy
    course : Course
    executor : Executor
        The worker threads.
    ended : callable
        Returns True once the epoch has been closed.
    """

    engine: Engine
    planner: Planner
    policy: ErrorPolicy
    course: Course
    executor: Executor
    ended: Callable[[], bool]

    def begin(self, index: int, count: int, own: Exclusions) -> Begun:
        """Plan and start `count` batches from `index` on, as one, without the samples that `own` excludes."""
        self.engine.dataset.check_files()
        order, positions = self.course.order, self.course.positions(index, count)
        with (
            self.engine.clock.of_batch(index, self.planner.epoch).span("plan", items=positions.size),
            during(lambda: f"while planning batch {index} of this epoch"),
        ):
            samples, blank = self.policy.choose(order, positions, own)
            replaced = int(np.count_nonzero(samples != order[positions]))
            # A field that no output uses is not read, so it cannot be bad.
            blank = {name: rows for name, rows in blank.items() if name in self.planner.fields}
            plan: BatchPlan = self.planner.plan(index, samples, blank)
        job = BatchJob(self.engine, plan, self.executor, self.ended)
        return Begun(job, replaced, sum(rows.size for rows in blank.values()))


@dataclass(frozen=True)
class Begun:
    """What `Maker.begin` started, and how many of its samples are replaced, and how many values blank."""

    job: BatchJob
    replaced: int
    blank: int


class CarefulBatch:
    """Batch `index` of an epoch: started at construction, collected by `results`.

    Parameters
    ----------
    maker : Maker
    index : int
    """

    def __init__(self, maker: Maker, index: int) -> None:
        self._maker, self.index, self.last = maker, index, index
        self._own = Exclusions()
        programs = maker.engine.programs
        self._rows_only = {program.field for program in programs if program.decoder.gives_rows}
        self._begun = self._begin()

    def _begin(self) -> Begun:
        return self._maker.begin(self.index, 1, self._own)

    def results(self) -> Iterator[Made]:
        """Wait for the batch; raise bad samples' errors if the policy says so, and all other exceptions."""
        maker = self._maker
        while faults := self._begun.job.wait():
            maker.engine.dataset.check_files()  # if the file was truncated, no sample is to blame
            maker.policy.judge(faults, self._own, self._rows_only)
            self._begun = self._begin()
        maker.policy.count(self._begun.replaced, self._begun.blank)
        yield self._begun.job.made()

    def cancel(self) -> None:
        """Cancel what has not started."""
        self._begun.job.cancel()

    def settle(self) -> None:
        """See `BatchJob.settle`."""
        self._begun.job.settle()
