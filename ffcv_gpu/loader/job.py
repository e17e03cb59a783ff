"""One batch being made: lanes of samples are read, checked, decoded and composed by the worker threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.compose import Launcher, PassLauncher, launcher
from ffcv_gpu.device import Device
from ffcv_gpu.jpeg.base import JpegBackend
from ffcv_gpu.loader.dataset import Dataset
from ffcv_gpu.loader.lane import Lane
from ffcv_gpu.pipeline.program import Program
from ffcv_gpu.plan import BatchPlan, ImagePayloads
from ffcv_gpu.staging import SlotRing
from ffcv_gpu.trace import StageClock

__all__ = ["BatchJob", "Engine"]


@dataclass(frozen=True)
class Engine:
    """Everything that the batches of one epoch share.

    `launches` holds the fused launches of each output; `groups` the outputs made from each field that
    has payloads: a sample is read and decoded once for all of them.
    """

    dataset: Dataset
    programs: tuple[Program, ...]
    device: Device
    backend: JpegBackend
    slots: SlotRing
    clock: StageClock
    workers: int
    launches: Mapping[str, tuple[Launcher | PassLauncher, ...]] = field(init=False)
    groups: Mapping[str, tuple[Program, ...]] = field(init=False)

    def __post_init__(self) -> None:
        launches = {p.name: tuple(map(launcher, p.stages)) for p in self.programs}
        groups: dict[str, tuple[Program, ...]] = {}
        for program in self.programs:
            if self.dataset.payloads(program.field) is not None:
                groups[program.field] = (*groups.get(program.field, ()), program)
        object.__setattr__(self, "launches", launches)
        object.__setattr__(self, "groups", groups)


class BatchJob:
    """One batch: submitted to the worker threads at construction, collected by `result`.

    Parameters
    ----------
    engine : Engine
    plan : BatchPlan
    executor : Executor
        The worker threads.
    """

    def __init__(self, engine: Engine, plan: BatchPlan, executor: Executor) -> None:
        self._engine, self._plan = engine, plan
        self._memory = {program.name: self._allocate(program) for program in engine.programs}
        lanes = engine.device.lanes(self._weights(), engine.workers) if engine.groups else []
        self._futures: Sequence[Future[None]] = [executor.submit(self._run, lo, hi) for lo, hi in lanes]

    def _allocate(self, program: Program) -> Any:
        """Return the memory of one output; scalars are read from the metadata at once."""
        engine, count = self._engine, len(self._plan)
        if program.decoder.gives_rows:
            return self._plan.sample_ids.copy()
        if program.field not in engine.groups:
            return engine.dataset.scalars(program.field, self._plan.sample_ids)
        if program.stages:
            last = engine.launches[program.name][-1]
            return engine.device.allocate((count, *last.stage.memory_shape), last.bit_type)
        return engine.device.allocate((count, *(program.fused.shape or ())), np.dtype(program.fused.dtype))

    def _weights(self) -> npt.NDArray[np.int64]:
        """Return how many bytes each sample needs while it is worked on, int64 (N,)."""
        total = np.ones(len(self._plan), np.int64)
        for name in self._engine.groups:
            payloads = self._plan.payloads[name]
            if isinstance(payloads, ImagePayloads):
                total += 3 * payloads.heights * payloads.widths
            else:
                total += payloads.lengths
        return total

    def _run(self, lo: int, hi: int) -> None:
        engine = self._engine
        with engine.slots.borrow() as slot:
            lane = Lane(engine.dataset, engine.device, engine.backend, engine.clock, slot, self._plan, lo, hi)
            for name, programs in engine.groups.items():
                staged = lane.stage(name)
                programs = tuple(program for program in programs if not program.decoder.gives_rows)
                if programs and isinstance(staged.payloads, ImagePayloads):
                    pixels = lane.decode(name, staged, staged.payloads)
                    for program in programs:
                        lane.compose(
                            program.name, engine.launches[program.name], pixels, self._memory[program.name]
                        )
                else:
                    lane.gather(staged, [self._memory[program.name] for program in programs])

    def result(self) -> tuple[Any, ...]:
        """Wait for the lanes, run the tails, return the batch: one array or tensor per output.

        Raises the first exception of any lane or tail.
        """
        for future in self._futures:
            future.result()
        with self._engine.clock.span("finish", items=len(self._plan)):
            return tuple(self._finish(program) for program in self._engine.programs)

    def _finish(self, program: Program) -> Any:
        value = self._engine.device.finish(self._memory[program.name], program.fused)
        for tail in program.tail:
            try:
                value = tail.apply(value, self._plan.draws)
            except BaseException as error:
                where = f"batch {self._plan.index} of epoch {self._plan.epoch}"
                error.add_note(
                    f"in pipeline {program.name!r}, step {tail.step!r}, on {where}, given {tail.spec}"
                )
                raise
        return value

    def cancel(self) -> None:
        """Drop the lanes that have not begun."""
        for future in self._futures:
            future.cancel()
