"""One batch in progress: on the CPU it is split into lanes of samples, on a GPU it runs as a whole."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ffcv_gpu.compose import Launcher, PassLauncher, launcher
from ffcv_gpu.dataset.dataset import Dataset
from ffcv_gpu.device import CpuDevice, GpuDevice, least_reading
from ffcv_gpu.jpeg.base import JpegBackend
from ffcv_gpu.loader import weights
from ffcv_gpu.loader.faults import Fault, during
from ffcv_gpu.loader.gpu_batch import GpuBatch
from ffcv_gpu.loader.gpu_engine import GpuEngine
from ffcv_gpu.loader.lane import Lane
from ffcv_gpu.loader.needed import needed_boxes
from ffcv_gpu.pipeline.program import Program, Tail
from ffcv_gpu.plan import BatchPlan, ImagePayloads
from ffcv_gpu.staging import SlotRing
from ffcv_gpu.steps import IntArray
from ffcv_gpu.trace import StageClock

__all__ = ["BatchJob", "Engine", "Made", "after_steps", "made_of"]


@dataclass(frozen=True)
class Engine:
    """What the batches of one epoch share.

    Attributes
    ----------
    programs : tuple of Program
        All outputs.
    device, backend, slots
        Those of the CPU.
    gpu : GpuDevice or None
        The GPU of the outputs that are made on it or uploaded to it.
    gpu_engine : GpuEngine or None
        Runs the programs on that GPU.
    bundle, in_flight : int
        See `weights.bundle_size` and `weights.batches_in_flight`.
    launches, groups
        For the programs on the CPU: the fused launches of each program; and for each field with payloads,
        the programs that share one read and decode of them.
    numbers, large : tuple of Program
        The programs on the CPU whose values are in the metadata, and all others there.
    early : tuple of Program
        The programs with steps that the workers run; see `Program.early`.
    """

    dataset: Dataset
    programs: tuple[Program, ...]
    device: CpuDevice
    backend: JpegBackend
    slots: SlotRing
    clock: StageClock
    workers: int
    gpu: GpuDevice | None = None
    gpu_engine: GpuEngine | None = None
    bundle: int = 1
    in_flight: int = weights.IN_FLIGHT
    launches: Mapping[str, tuple[Launcher | PassLauncher, ...]] = field(init=False)
    groups: Mapping[str, tuple[Program, ...]] = field(init=False)
    numbers: tuple[Program, ...] = field(init=False)
    large: tuple[Program, ...] = field(init=False)
    early: tuple[Program, ...] = field(init=False)

    def __post_init__(self) -> None:
        launches = {p.name: tuple(map(launcher, p.stages)) for p in self.host_programs}
        groups: dict[str, tuple[Program, ...]] = {}
        for program in self.host_programs:
            if self.dataset.payloads(program.field) is not None:
                groups[program.field] = (*groups.get(program.field, ()), program)
        object.__setattr__(self, "launches", launches)
        object.__setattr__(self, "groups", groups)
        numbers, large = list[Program](), list[Program]()
        for program in self.host_programs:
            in_metadata = program.field not in groups and not program.decoder.gives_rows
            (numbers if in_metadata else large).append(program)
        object.__setattr__(self, "numbers", tuple(numbers))
        object.__setattr__(self, "large", tuple(large))
        object.__setattr__(self, "early", tuple(p for p in self.host_programs if p.early))

    @property
    def host_programs(self) -> tuple[Program, ...]:
        """The programs that run on the CPU."""
        return tuple(program for program in self.programs if program.device == "cpu")


@dataclass(frozen=True)
class Made:
    """A finished batch on its way to the consumer: `on_gpu` may still be written until `ready`."""

    values: tuple[Any, ...]
    gpu: GpuDevice | None = None
    on_gpu: tuple[Any, ...] = ()
    ready: Any = None

    def receive(self) -> tuple[Any, ...]:
        """Return the batch; the calling thread's current stream waits for what the GPU is still writing."""
        if self.gpu is not None and self.on_gpu:
            self.gpu.owner.hand_over(self.on_gpu, self.ready)
        return self.values


class BatchJob:
    """A batch, or a bundle: submitted to the worker threads at construction; call `wait`, then `made`.

    Parameters
    ----------
    engine : Engine
    plan : BatchPlan
    executor : Executor
        The worker threads.
    ended : callable
        Returns True once the epoch has been closed.
    """

    def __init__(
        self, engine: Engine, plan: BatchPlan, executor: Executor, ended: Callable[[], bool]
    ) -> None:
        self._engine, self._plan, self.index = engine, plan, plan.index
        self._clock = engine.clock.of_batch(plan.index, plan.epoch)
        self._gpu = None
        if engine.gpu_engine is not None:
            self._gpu = GpuBatch(engine.gpu_engine, plan, executor, ended)
        self._memory = {program.name: self._allocate(program) for program in engine.large}
        if engine.numbers:
            fields = [program.field for program in engine.numbers]
            values = engine.dataset.scalars(fields, plan.sample_ids, engine.device.allocate)
            self._memory |= {p.name: array for p, array in zip(engine.numbers, values, strict=True)}
        # A sample is decoded once for all its outputs, so their crops are needed together.
        self._boxes: dict[str, IntArray | None] = {}
        if engine.backend.capabilities.roi:
            self._boxes = {name: needed_boxes(plan, group) for name, group in engine.groups.items()}
        weight = weights.weights([plan.payloads[name] for name in engine.groups], len(plan))
        self._here = bool(engine.groups) and int(weight.sum()) <= weights.HERE_BYTES
        lanes: list[tuple[int, int]] = []
        if engine.groups and not self._here:
            sharing = weights.sharing(engine.workers, engine.in_flight, whole=bool(engine.early))
            lanes = engine.device.lanes(weight, sharing, least_reading(engine.workers))
        self._lanes, self._finished = len(lanes), itertools.count(1)
        self._early: dict[str, Any] = {}
        self._futures: Sequence[Future[list[Fault]]] = [
            executor.submit(self._run_lane, lo, hi) for lo, hi in lanes
        ]

    def _allocate(self, program: Program) -> Any:
        """Return the memory of one output."""
        engine, count = self._engine, len(self._plan)
        if program.decoder.gives_rows:
            if engine.dataset.remotes:
                with self._clock.span("read", items=count):
                    engine.dataset.bring(self._plan.index, program.field, self._plan.sample_ids)
            return self._plan.sample_ids.copy()
        if program.stages:
            last = engine.launches[program.name][-1]
            return engine.device.allocate((count, *last.stage.memory_shape), last.bit_type)
        return engine.device.allocate((count, *(program.fused.shape or ())), np.dtype(program.fused.dtype))

    def _run_lane(self, lo: int, hi: int) -> list[Fault]:
        """`_run`; the lane that finishes last, if none has faults, also runs the early steps."""
        faults = self._run(lo, hi)
        if not faults and next(self._finished) == self._lanes and self._engine.early:  # next() is atomic
            with self._clock.span("operate", items=len(self._plan)):
                for program in self._engine.early:
                    value = self._engine.device.finish(self._memory[program.name], program.fused)
                    steps = program.tail[: program.early]
                    self._early[program.name] = after_steps(program.name, steps, value, self._plan)
        return faults

    def _run(self, lo: int, hi: int) -> list[Fault]:
        """Process samples [lo, hi); return their faults, in which case the outputs are incomplete."""
        engine, plan = self._engine, self._plan
        with engine.slots.borrow() as slot:
            lane = Lane(engine.dataset, engine.device, engine.backend, self._clock, slot, plan, lo, hi)
            for name, programs in engine.groups.items():
                self._run_field(lane, name, programs)
            return lane.faults

    def _place(self, lane: Lane, name: str) -> str:
        """Return which samples are being processed, as text: the note added to unexpected exceptions."""
        ids, plan = self._plan.sample_ids[lane.lo : lane.hi], self._plan
        return (
            f"in field {name!r} of samples {ids[0]} ... {ids[-1]}: rows {lane.lo} to {lane.hi - 1} of batch "
            f"{plan.index} of epoch {plan.epoch}"
        )

    def _run_field(self, lane: Lane, name: str, programs: Sequence[Program]) -> None:
        with during(lambda: self._place(lane, name)):
            self._make_field(lane, name, programs)

    def _make_field(self, lane: Lane, name: str, programs: Sequence[Program]) -> None:
        staged = lane.stage(name)
        programs = tuple(program for program in programs if not program.decoder.gives_rows)
        if not programs or not isinstance(staged.payloads, ImagePayloads):
            lane.gather(staged, [self._memory[program.name] for program in programs])
            return
        pixels = lane.decode(name, staged, staged.payloads, self._boxes.get(name))
        if lane.faults:
            return
        for program in programs:
            launches = self._engine.launches[program.name]
            lane.compose(program.name, launches, pixels, self._memory[program.name])

    def wait(self) -> list[Fault]:
        """Wait until all samples are processed; return their faults.

        Raises the first exception of any lane or part.
        """
        faults = [fault for future in self._futures for fault in future.result()]
        if self._here:
            faults = self._run(0, len(self._plan))
        return faults if self._gpu is None else faults + self._gpu.result()

    def made(self) -> Made:
        """Run the tails and return the batch, one value per output; only after a `wait` without faults.

        Raises the first exception of any tail.
        """
        memory = {**self._memory, **(self._gpu.memory if self._gpu is not None else {})}
        engine, plan = self._engine, self._plan
        with self._clock.span("finish", items=len(plan)):
            return made_of(engine.programs, engine.gpu, lambda p: self._finish(p, memory[p.name], plan))

    def parts(self, edges: Sequence[int]) -> Iterator[Made]:
        """Do what `made` does for each batch of a bundle: batch i begins at ``edges[i]``.

        A batch is a view of the bundle's memory, which is reused once nothing refers to any of them.
        """
        for number, (lo, hi) in enumerate(itertools.pairwise(edges)):
            plan = self._plan.part(number, lo, hi)
            with self._engine.clock.of_batch(plan.index, plan.epoch).span("finish", items=hi - lo):
                programs, memory = self._engine.programs, self._memory
                made = Made(tuple(self._finish(p, memory[p.name][lo:hi], plan) for p in programs))
            yield made

    def _finish(self, program: Program, memory: Any, plan: BatchPlan) -> Any:
        steps = program.tail
        if program.name in self._early:
            value, steps = self._early[program.name], steps[program.early :]
        else:
            device = self._engine.device if program.device == "cpu" else self._engine.gpu
            assert device is not None, "a program on a GPU has one"
            value = device.finish(memory, program.fused)
        return after_steps(program.name, steps, value, plan)

    def cancel(self) -> None:
        """Cancel what has not started."""
        for future in self._futures:
            future.cancel()
        if self._gpu is not None:
            self._gpu.cancel()

    def leave(self) -> None:
        """Cancel what has not started and wait for the rest: nothing is read from the file any more."""
        self.cancel()
        for future in self._futures:
            if not future.cancelled():
                future.exception()

    def settle(self) -> None:
        """Wait until nothing is in flight on a GPU; called after `cancel`, once the workers have ended."""
        if self._gpu is not None:
            self._gpu.settle()


def made_of(programs: Sequence[Program], gpu: GpuDevice | None, finish: Callable[[Program], Any]) -> Made:
    """Return the batch of the values ``finish(program)``, which with a `gpu` are submitted to its stream."""
    if gpu is None:
        return Made(tuple(map(finish, programs)))
    gpu.make_current()  # else leaving `working_on` makes the first GPU current: a context on it, 0.5 GB
    with gpu.owner.working_on(gpu.stream):
        values = tuple(map(finish, programs))
        ready = gpu.new_event()
        gpu.stream.record(ready)
    there = [v for v, p in zip(values, programs, strict=True) if p.spec.device != "cpu"]
    return Made(values, gpu, tuple(arrays_in(there)), ready)


def after_steps(name: str, steps: Sequence[Tail], value: Any, plan: BatchPlan) -> Any:
    """Return `value` after `steps` of the output `name`; exceptions get a note with the step."""
    for tail in steps:
        try:
            value = tail.apply(value, plan)
        except BaseException as error:
            where = f"batch {plan.index} of epoch {plan.epoch}"
            error.add_note(f"in pipeline {name!r}, step {tail.step!r}, on {where}, given {tail.spec}")
            raise
    return value


def arrays_in(value: Any) -> Iterator[Any]:
    """Yield the arrays in a value; a user's module may return a tuple or dict."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from arrays_in(part)
    elif hasattr(value, "shape"):
        yield value
