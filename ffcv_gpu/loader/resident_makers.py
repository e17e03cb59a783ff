"""Makes the batches of a resident dataset, on each kind of device; see `resident`."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ffcv_gpu.compose import Launcher, pixel_table
from ffcv_gpu.device import CpuDevice, GpuDevice, PixelSource
from ffcv_gpu.device.base import GpuEvent
from ffcv_gpu.kernels.codes import COLUMN_OFFSET0, KIND_DECODED
from ffcv_gpu.loader.dataset import Dataset
from ffcv_gpu.pipeline.program import FusedStage, Program
from ffcv_gpu.plan import BatchPlan, StagePlan
from ffcv_gpu.staging import SlotRing
from ffcv_gpu.steps import IntArray

__all__ = ["Begun", "CpuMaker", "GpuMaker", "Maker"]

ByteArray = npt.NDArray[np.uint8]
Pixels = Mapping[str, ByteArray]

#: launch blocks on their way to a GPU: one being written, one being read
SLOTS = 3
#: bytes of pinned memory through which the pixels go to a GPU, once
CHUNK = 32 << 20
#: start of each thing on a GPU, in bytes
ALIGNMENT = 256


@dataclass(frozen=True)
class Begun:
    """The outputs of a batch in the making: `memory` by name, complete when `futures` are done."""

    memory: dict[str, Any]
    futures: list[Future[None]]


class Maker(Protocol):
    """Makes outputs on one device."""

    def begin(self, plan: BatchPlan, places: IntArray, executor: ThreadPoolExecutor) -> Begun:
        """Start making a batch of the images number `places`."""

    def finish(self, memory: Any, program: Program) -> Any:
        """Return an output's memory as the array or tensor that the fused launch leaves."""


class _Images:
    """The images of a field in memory: where each lies, as kernels are told."""

    def __init__(self, images: ByteArray, start: int = 0) -> None:
        count, height, width, channels = images.shape
        starts = start + np.arange(count, dtype=np.int64) * (height * width * channels)
        sizes = np.full(count, height), np.full(count, width)
        self.table = pixel_table(starts, KIND_DECODED, *sizes, channels)


def _stage(plan: BatchPlan, program: Program) -> StagePlan:
    (stage,) = plan.stages[program.name]
    assert isinstance(stage, StagePlan), "checked at construction"
    return stage


def _launchers(programs: list[Program]) -> dict[str, Launcher]:
    return {p.name: Launcher(s) for p in programs for s in p.stages if isinstance(s, FusedStage)}


class CpuMaker:
    """In host memory, by the loader's kind of threads."""

    def __init__(self, programs: list[Program], pixels: Pixels, dataset: Dataset, workers: int) -> None:
        self._programs, self._dataset, self._workers = programs, dataset, workers
        self._device = CpuDevice(keep=4)
        self._slots = SlotRing(self._device)
        self._launchers = _launchers(programs)
        used = {p.field for p in programs if p.stages}
        self._images = {name: (_Images(pixels[name]), pixels[name].reshape(-1)) for name in used}

    def begin(self, plan: BatchPlan, places: IntArray, executor: ThreadPoolExecutor) -> Begun:
        memory, futures = {}, []
        for program in self._programs:
            if not program.stages:
                memory[program.name] = self._dataset.scalars(program.field, plan.sample_ids)
                continue
            launch = self._launchers[program.name]
            shape = (len(plan), *launch.stage.memory_shape)
            out = memory[program.name] = self._device.allocate(shape, launch.bit_type)
            sizes = np.full(len(plan), int(np.prod(shape[1:])), np.int64)
            for lo, hi in self._device.lanes(sizes, self._workers):
                futures.append(executor.submit(self._compose, program, plan, places, out, lo, hi))
        return Begun(memory, futures)

    def _compose(
        self, program: Program, plan: BatchPlan, places: IntArray, out: npt.NDArray[Any], lo: int, hi: int
    ) -> None:
        images, pixels = self._images[program.field]
        launch = self._launchers[program.name].arguments(_stage(plan, program).take(slice(lo, hi)))
        source = PixelSource(images.table[places[lo:hi]], pixels, pixels)
        with self._slots.borrow() as slot:
            self._device.compose(launch, source, out[lo:hi], slot.scratch)

    def finish(self, memory: Any, program: Program) -> Any:
        return self._device.finish(memory, program.fused)


@dataclass(eq=False)
class _Block:
    """Pinned memory for one batch's launch blocks and numbers, and where it goes on the GPU."""

    pinned: ByteArray
    start: int
    uploaded: GpuEvent


class GpuMaker:
    """In the memory of a GPU, to whose front the launch blocks go.

    Everything is submitted by the consumer's thread and goes through one stream, so that only pinned memory
    has to be waited for.
    """

    def __init__(
        self, programs: list[Program], pixels: Pixels, dataset: Dataset, gpu: GpuDevice, first: BatchPlan
    ) -> None:
        self._programs, self._gpu, self._dataset = programs, gpu, dataset
        self._launchers = _launchers(programs)
        block_bytes = self._layout(first)[1]
        place, self._images = SLOTS * block_bytes, {}
        for name in {p.field for p in programs if p.stages}:
            self._images[name] = _Images(pixels[name], place)
            place = _aligned(place + pixels[name].nbytes)
        # of the stream that uses it: when it is dropped, nobody else gets it before that is done
        with gpu.owner.entered(), gpu.owner.working_on(gpu.stream):
            self._arena = gpu.device_bytes(place)
            self._blocks = [
                _Block(gpu.pinned(block_bytes)[:block_bytes], k * block_bytes, gpu.new_event())
                for k in range(SLOTS)
            ]
            for name, images in self._images.items():
                if len(images.table):
                    self._upload(pixels[name].reshape(-1), int(images.table[0, COLUMN_OFFSET0]))

    def _upload(self, pixels: ByteArray, start: int) -> None:
        gpu, event = self._gpu, self._gpu.new_event()
        pinned = gpu.pinned(min(CHUNK, pixels.size))
        for done in range(0, pixels.size, CHUNK):
            part = pinned[: min(CHUNK, pixels.size - done)]
            part[:] = pixels[done : done + part.size]
            gpu.upload(part, self._arena, start + done, gpu.stream)
            gpu.stream.record(event)
            event.synchronize()

    def _layout(self, plan: BatchPlan) -> tuple[dict[str, int], int]:
        """Return where each output's launch block or numbers lie in a block, and the block's size."""
        places, end = {}, 0
        for program in self._programs:
            places[program.name] = end
            if program.stages:
                columns = _stage(plan, program).params.shape[1]
                size = self._launchers[program.name].block(len(plan), columns).size_bytes
            else:
                size = len(plan) * np.dtype(program.fused.dtype).itemsize
            end = _aligned(end + size)
        return places, end

    def begin(self, plan: BatchPlan, places: IntArray, executor: ThreadPoolExecutor) -> Begun:
        gpu, block = self._gpu, self._blocks[plan.index % SLOTS]
        at, size = self._layout(plan)
        with gpu.owner.entered(), gpu.owner.working_on(gpu.stream):
            block.uploaded.synchronize()  # on the host: its last upload may still be read
            for program in self._programs:
                self._write(program, plan, places, block.pinned[at[program.name] :])
            gpu.upload(block.pinned[:size], self._arena, block.start, gpu.stream)
            gpu.stream.record(block.uploaded)
            made = {p.name: self._launch(p, plan, block.start + at[p.name]) for p in self._programs}
        return Begun(made, [])

    def _write(self, program: Program, plan: BatchPlan, places: IntArray, pinned: ByteArray) -> None:
        if not program.stages:
            values = np.ascontiguousarray(self._dataset.scalars(program.field, plan.sample_ids))
            pinned[: values.nbytes] = values.view(np.uint8).reshape(-1)
            return
        launch, stage = self._launchers[program.name], _stage(plan, program)
        layout = launch.block(len(plan), stage.params.shape[1])
        block = pinned[: layout.size_bytes]
        launch.write_block(layout, block, stage, self._images[program.field].table[places])
        launch.write_starts(layout, block, 0, len(plan))

    def _launch(self, program: Program, plan: BatchPlan, start: int) -> Any:
        gpu = self._gpu
        if not program.stages:
            out = gpu.empty((len(plan), *(program.fused.shape or ())), str(program.fused.dtype))
            gpu.owner.copy(self._arena.memory, start, out)
            return out
        launch = self._launchers[program.name]
        out = gpu.empty((len(plan), *launch.stage.memory_shape), str(program.fused.dtype))
        layout = launch.block(len(plan), _stage(plan, program).params.shape[1])
        gpu.launches.compose(self._arena.views, layout, start, out, gpu.stream)
        return out

    def finish(self, memory: Any, program: Program) -> Any:
        spec = program.fused
        return self._gpu.owner.permuted(memory) if spec.layout == "CHW" and spec.channels_last else memory


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
