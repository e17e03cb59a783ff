"""Make the batches of a resident dataset, on the CPU and on a GPU; see `resident`."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ffcv_gpu.compose import Launcher, finished_pixels, finished_table
from ffcv_gpu.dataset.dataset import Dataset
from ffcv_gpu.device import LEAST_LANE_BYTES, CpuDevice, GpuDevice
from ffcv_gpu.device.base import GpuEvent
from ffcv_gpu.device.gpu import wait_for
from ffcv_gpu.kernels.block import BlockLayout
from ffcv_gpu.kernels.codes import COLUMN_OFFSET0
from ffcv_gpu.pipeline.program import FusedStage, Program
from ffcv_gpu.plan import BatchPlan, StagePlan
from ffcv_gpu.staging import SlotRing
from ffcv_gpu.steps import IntArray
from ffcv_gpu.trace import StageClock

__all__ = ["CpuMaker", "GpuMaker", "OutputMaker", "Outputs"]

ByteArray = npt.NDArray[np.uint8]
Pixels = Mapping[str, ByteArray]

#: buffers for launch blocks: one is being written while the others are being uploaded
SLOTS = 3
#: bytes of the pinned buffer through which the pixels are uploaded, once
CHUNK = 32 << 20
#: alignment of everything in GPU memory, in bytes
ALIGNMENT = 256


@dataclass(frozen=True)
class Outputs:
    """The outputs of a batch in progress: `memory` by name, complete when `futures` are done."""

    memory: dict[str, Any]
    futures: list[Future[None]]


class OutputMaker(Protocol):
    """Makes outputs on one device."""

    def begin(
        self, plan: BatchPlan, places: IntArray, executor: ThreadPoolExecutor, clock: StageClock
    ) -> Outputs:
        """Start a batch of the images with positions `places` in memory, int64 (N,)."""

    def finish(self, memory: Any, program: Program) -> Any:
        """Return an output's memory as the array or tensor that the program's tail starts from."""

    def begin_process(self) -> None:
        """Replace what has locks: in a forked child, the parent's may be held forever."""


def _stage(plan: BatchPlan, program: Program) -> StagePlan:
    (stage,) = plan.stages[program.name]
    assert isinstance(stage, StagePlan), "checked at construction"
    return stage


def _launchers(programs: list[Program]) -> dict[str, Launcher]:
    return {p.name: Launcher(s) for p in programs for s in p.stages if isinstance(s, FusedStage)}


class CpuMaker:
    """Makes outputs in host memory, in the epoch's worker threads."""

    def __init__(
        self, programs: list[Program], pixels: Pixels, dataset: Dataset, workers: int, keep: int
    ) -> None:
        self._programs, self._dataset, self._workers, self._keep = programs, dataset, workers, keep
        self.begin_process()
        self._launchers = _launchers(programs)
        used = {p.field for p in programs if p.stages}
        self._images = {name: finished_pixels(pixels[name]) for name in used}

    def begin_process(self) -> None:
        """See `OutputMaker`."""
        self._device = CpuDevice(self._keep)
        self._slots = SlotRing(self._device)

    def begin(
        self, plan: BatchPlan, places: IntArray, executor: ThreadPoolExecutor, clock: StageClock
    ) -> Outputs:
        memory, futures = {}, []
        for program in self._programs:
            if not program.stages:
                memory[program.name] = self._dataset.scalars([program.field], plan.sample_ids)[0]
                continue
            launch = self._launchers[program.name]
            shape = (len(plan), *launch.stage.memory_shape)
            out = memory[program.name] = self._device.allocate(shape, launch.bit_type)
            sizes = np.full(len(plan), int(np.prod(shape[1:])), np.int64)
            for lo, hi in self._device.lanes(sizes, self._workers, LEAST_LANE_BYTES):
                futures.append(executor.submit(self._compose, program, plan, places, out, lo, hi, clock))
        return Outputs(memory, futures)

    def _compose(
        self,
        program: Program,
        plan: BatchPlan,
        places: IntArray,
        out: npt.NDArray[Any],
        lo: int,
        hi: int,
        clock: StageClock,
    ) -> None:
        images = self._images[program.field]
        launch = self._launchers[program.name].arguments(_stage(plan, program).take(slice(lo, hi)))
        source = replace(images, table=images.table[places[lo:hi]])
        with self._slots.borrow() as slot, clock.span("compose", items=hi - lo):
            self._device.compose(launch, source, out[lo:hi], slot.scratch)

    def finish(self, memory: Any, program: Program) -> Any:
        return self._device.finish(memory, program.fused)


@dataclass(eq=False)
class _Block:
    """Pinned memory for one batch's launch blocks and numbers, and its offset in the GPU's arena."""

    pinned: ByteArray
    start: int
    uploaded: GpuEvent


@dataclass(frozen=True)
class _Layout:
    """Where each output's launch block or numbers are in a `_Block`, of which `size` bytes are used."""

    places: Mapping[str, slice]
    launches: Mapping[str, BlockLayout]
    size: int


class GpuMaker:
    """Makes outputs in GPU memory: an arena with the launch blocks first, then the images.

    The thread that starts a batch submits all of it to one stream, so that the host only waits for pinned
    memory; overlapping epochs take turns.
    """

    def __init__(
        self, programs: list[Program], pixels: Pixels, dataset: Dataset, gpu: GpuDevice, first: BatchPlan
    ) -> None:
        self._programs, self._gpu, self._dataset = programs, gpu, dataset
        self._launchers, self._layouts = _launchers(programs), dict[int, _Layout]()
        self._lock = threading.Lock()
        weakref.finalize(self, wait_for, gpu.owner, gpu.stream).atexit = False  # pinned memory is in use
        block_bytes = self._layout(first).size
        place, self._tables = SLOTS * block_bytes, dict[str, IntArray]()
        for name in {p.field for p in programs if p.stages}:
            self._tables[name] = finished_table(pixels[name].shape, place)
            place = _aligned(place + pixels[name].nbytes)
        # allocated on the stream that uses it: once freed, it is not reused before that stream is done
        with gpu.owner.entered(), gpu.owner.working_on(gpu.stream):
            self._arena = gpu.device_bytes(place)
            self._blocks = deque(
                _Block(gpu.pinned(block_bytes)[:block_bytes], k * block_bytes, gpu.new_event())
                for k in range(SLOTS)
            )
            for name, table in self._tables.items():
                if len(table):
                    self._upload(pixels[name].reshape(-1), int(table[0, COLUMN_OFFSET0]))

    def begin_process(self) -> None:
        """Do nothing: a GPU cannot be used after a fork, and the loader has already raised."""

    def _upload(self, pixels: ByteArray, start: int) -> None:
        gpu, event = self._gpu, self._gpu.new_event()
        pinned = gpu.pinned(min(CHUNK, pixels.size))
        for done in range(0, pixels.size, CHUNK):
            part = pinned[: min(CHUNK, pixels.size - done)]
            part[:] = pixels[done : done + part.size]
            gpu.upload(part, self._arena, start + done, gpu.stream)
            gpu.stream.record(event)
            event.synchronize()

    def _layout(self, plan: BatchPlan) -> _Layout:
        """Return the layout of a batch of this size, computed once."""
        found = self._layouts.get(len(plan))
        if found is None:
            found = self._layouts[len(plan)] = self._laid_out(plan)
        return found

    def _laid_out(self, plan: BatchPlan) -> _Layout:
        places, launches, end = {}, {}, 0
        for program in self._programs:
            if program.stages:
                columns = _stage(plan, program).params.shape[1]
                block = launches[program.name] = self._launchers[program.name].block(len(plan), columns)
                size = block.size_bytes
            else:
                size = len(plan) * np.dtype(program.fused.dtype).itemsize
            places[program.name] = slice(end, end + size)
            end = _aligned(end + size)
        return _Layout(places, launches, end)

    def begin(
        self, plan: BatchPlan, places: IntArray, executor: ThreadPoolExecutor, clock: StageClock
    ) -> Outputs:
        gpu, layout = self._gpu, self._layout(plan)
        gpu.make_current()
        with self._lock, gpu.owner.working_on(gpu.stream), clock.span("launch", items=len(plan)):
            block = self._blocks[0]
            self._blocks.rotate(-1)
            block.uploaded.synchronize()  # on the host: its last upload may still be reading it
            for program in self._programs:
                self._write(program, plan, places, block.pinned[layout.places[program.name]], layout)
            gpu.upload(block.pinned[: layout.size], self._arena, block.start, gpu.stream)
            gpu.stream.record(block.uploaded)
            made = {p.name: self._launch(p, len(plan), block, layout) for p in self._programs}
        return Outputs(made, [])

    def _write(
        self, program: Program, plan: BatchPlan, places: IntArray, pinned: ByteArray, layout: _Layout
    ) -> None:
        if not program.stages:
            values = np.ascontiguousarray(self._dataset.scalars([program.field], plan.sample_ids)[0])
            pinned[:] = values.view(np.uint8).reshape(-1)
            return
        launch, block = self._launchers[program.name], layout.launches[program.name]
        table = self._tables[program.field].take(places, axis=0)
        launch.write_block(block, pinned, _stage(plan, program), table)
        launch.write_starts(block, pinned, 0, len(plan))

    def _launch(self, program: Program, count: int, block: _Block, layout: _Layout) -> Any:
        gpu, start = self._gpu, block.start + layout.places[program.name].start
        if not program.stages:
            out = gpu.empty((count, *(program.fused.shape or ())), str(program.fused.dtype))
            gpu.owner.copy(self._arena.memory, start, out)
            return out
        shape = self._launchers[program.name].stage.memory_shape
        out = gpu.empty((count, *shape), str(program.fused.dtype))
        gpu.launches.compose(self._arena.views, layout.launches[program.name], start, out, gpu.stream)
        return out

    def finish(self, memory: Any, program: Program) -> Any:
        return self._gpu.finish(memory, program.fused)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
