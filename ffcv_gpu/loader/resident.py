"""A dataset that stays in memory: decoded once, then augmented there, with neither file nor decoder.

For small images and many epochs: 50,000 images of 32 x 32 pixels take 0.15 GB. On a GPU the pixels lie on the
GPU, and a batch costs an upload of some kilobytes and one launch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ffcv_gpu.device.host_memory import available_bytes
from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.loader.course import Progress
from ffcv_gpu.loader.iterator import EpochIterator, Run
from ffcv_gpu.loader.job import IN_FLIGHT, Made, after_steps, arrays_in
from ffcv_gpu.loader.loader import Loader
from ffcv_gpu.loader.resident_makers import Begun, ByteArray, CpuMaker, GpuMaker, Maker
from ffcv_gpu.pipeline.program import FusedStage, Program
from ffcv_gpu.plan import BatchPlan, plan_stages
from ffcv_gpu.steps import IntArray

__all__ = ["ResidentLoader"]


class ResidentLoader:
    """Gives the batches of a Loader out of memory: equal samples, random numbers and outputs.

    Batches are made ahead by a thread of the epoch's own: `batches_ahead` of the loader (2 at least), and one
    more is begun. They stay valid as long as you keep them, as a Loader's do.

    Parameters
    ----------
    loader : Loader
        Its outputs must be images, all of one size in the file, that one fused launch makes (crops, flips,
        shifts, cutouts, colours but for contrast, normalisation), and numbers. Epochs are counted, saved and
        resumed together with it. JPEGs are decoded by libjpeg-turbo, on the CPU, at construction: on a GPU
        the pixels of a streamed epoch may differ by what nvJPEG rounds otherwise.

    Attributes
    ----------
    loader : Loader
    size_bytes : int
        What the pixels take.

    Raises
    ------
    PipelineError
        If an output cannot be made out of memory (names it), or the host has too little for the pixels.
    DecodeError, ReadError
        If a sample is damaged, whatever the loader's `on_error` says.
    OutOfGpuMemory
        If the pixels do not fit on the GPU.
    """

    def __init__(self, loader: Loader) -> None:
        self.loader, self.indices = loader, loader.indices
        self._programs = loader._programs
        for program in self._programs:
            _check(program)
        needed, free = self.bytes_of(loader), available_bytes()
        if needed > free:
            raise PipelineError(
                f"{loader.fname}: the decoded images take {needed / 1e6:,.2f} MB, and {free / 1e6:,.2f} MB "
                "of the host's memory are free; use fewer (indices=), or stream them"
            )
        rows = np.unique(loader.indices)
        self._places = np.full(len(loader.dataset), -1, np.int64)
        self._places[rows] = np.arange(rows.size)
        pixels = {
            name: _decoded(loader, name, rows) for name in {p.field for p in self._programs if p.stages}
        }
        self._sizes = {name: images.shape[1:3] for name, images in pixels.items()}
        self.size_bytes = sum(images.nbytes for images in pixels.values())
        host = [program for program in self._programs if program.device == "cpu"]
        there = [program for program in self._programs if program.device != "cpu"]
        keep = loader.batches_ahead + 3
        self._makers: list[Maker] = [CpuMaker(host, pixels, loader.dataset, loader.num_workers, keep)]
        self._gpu = loader._assembly.gpu if there else None
        if self._gpu is not None:
            largest = np.resize(rows, loader.batch_size)  # indices may say a row many times
            plan = self._plan(Draws(0, 0, largest), 0)
            self._makers.append(GpuMaker(there, pixels, loader.dataset, self._gpu, plan))
        self._process = os.getpid()

    @staticmethod
    def bytes_of(loader: Loader) -> int:
        """Return how much memory the pixels of a loader's images would take."""
        fields = {program.field for program in loader._programs if program.stages}
        count = np.unique(loader.indices).size
        return int(sum(count * loader.dataset.mean_pixel_bytes(name, loader.indices) for name in fields))

    @classmethod
    def fits(cls, loader: Loader, share: float = 0.25) -> bool:
        """Return whether the pixels take at most a `share` of the GPU's memory and of what the host has."""
        gpu = loader._assembly.gpu
        room = available_bytes() if gpu is None else min(available_bytes(), gpu.owner.total_bytes())
        return cls.bytes_of(loader) <= share * room

    def __len__(self) -> int:
        """Batches an epoch, on this rank."""
        return len(self.loader)

    def __iter__(self) -> EpochIterator:
        """Begin the loader's next epoch; see `Loader.__iter__`."""
        loader = self.loader
        loader._follow_fork()
        if os.getpid() != self._process:
            for maker in self._makers:
                maker.begin_process()
            self._process = os.getpid()
        if loader.indices is not self.indices and (self._places[loader.indices] < 0).any():
            raise PipelineError(
                f"{loader.fname}: the loader's indices were replaced, and some of their images are not in"
                " memory; create a new ResidentLoader"
            )
        progress = loader._coming_epoch()
        return loader._begun(EpochIterator(_ResidentRun(self, progress), progress), progress)

    def close(self) -> None:
        """As `Loader.close`, of `loader`."""
        self.loader.close()

    def set_epoch(self, epoch: int) -> None:
        """As `Loader.set_epoch`, of `loader`."""
        self.loader.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """As `Loader.state_dict`, of `loader`."""
        return self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As `Loader.load_state_dict`, of `loader`."""
        self.loader.load_state_dict(state)

    def _plan(self, draws: Draws, index: int) -> BatchPlan:
        """Return what `Planner.plan` does, but where payloads lie: nobody reads them."""
        stages = {}
        for program in self._programs:
            if program.stages:
                heights, widths = (np.full(len(draws), side) for side in self._sizes[program.field])
                stages[program.name] = plan_stages(program.stages, heights, widths, draws)
        return BatchPlan(draws.seed, draws.epoch, index, draws.samples, {}, stages)

    def _made(self, plan: BatchPlan, memory: Mapping[str, Any]) -> Made:
        """Return a batch of which the launches are done, or submitted to a GPU."""
        if self._gpu is None:
            return Made(tuple(self._finished(p, memory[p.name], plan) for p in self._programs))
        gpu = self._gpu
        with gpu.owner.working_on(gpu.stream):
            values = tuple(self._finished(p, memory[p.name], plan) for p in self._programs)
            ready = gpu.new_event()
            gpu.stream.record(ready)
        there = [v for v, p in zip(values, self._programs, strict=True) if p.spec.device != "cpu"]
        return Made(values, gpu, tuple(arrays_in(there)), ready)

    def _finished(self, program: Program, memory: Any, plan: BatchPlan) -> Any:
        return after_steps(program, self._makers[program.device != "cpu"].finish(memory, program), plan)


class _ResidentRun(Run):
    """One epoch; see `Run`."""

    def __init__(self, resident: ResidentLoader, progress: Progress) -> None:
        loader = resident.loader
        self._resident, self._ids, self._seed = resident, progress.course.batches(), loader.seed
        counts = len(self._ids), loader.num_workers, IN_FLIGHT, loader.batches_ahead
        super().__init__(*counts, loader._clock, progress.epoch)

    def begin(self, index: int) -> _ResidentBatch:
        """Plan a batch and begin to make it."""
        resident, ids = self._resident, self._ids[index]
        plan, places = resident._plan(Draws(self._seed, self.epoch, ids), index), resident._places[ids]
        parts = [maker.begin(plan, places, self.executor) for maker in resident._makers]
        return _ResidentBatch(resident, plan, parts)

    def passed(self, index: int) -> None:
        """Do nothing: no batch has something of its own in memory."""

    def interrupt(self) -> None:
        """Do nothing: nobody waits for a disk."""

    def release(self) -> None:
        """Do nothing: what epochs are made of stays."""


class _ResidentBatch:
    """A batch that has been begun; see `ffcv_gpu.loader.iterator.Batch`."""

    def __init__(self, resident: ResidentLoader, plan: BatchPlan, parts: list[Begun]) -> None:
        self._resident, self._plan, self._parts = resident, plan, parts
        self.index = plan.index

    def result(self) -> Made:
        """Wait for the workers; a GPU need not be done."""
        memory: dict[str, Any] = {}
        for part in self._parts:
            for future in part.futures:
                future.result()
            memory |= part.memory
        return self._resident._made(self._plan, memory)

    def cancel(self) -> None:
        """Drop what has not begun."""
        for part in self._parts:
            for future in part.futures:
                future.cancel()

    def settle(self) -> None:
        """Wait for nothing: what a GPU writes is used again only in the order of its stream."""


def _check(program: Program) -> None:
    """Raise if an output cannot be made out of memory."""
    stages = program.stages
    one = len(stages) == 1 and isinstance(stages[0], FusedStage) and not stages[0].wide
    if one and not stages[0].measures:  # type: ignore[union-attr]
        return
    if stages or program.decoder.gives_rows or program.fused.shape not in ((1,), ()):
        raise PipelineError(
            f"output {program.name!r} cannot be made out of memory: that takes numbers, or images of 8 bits "
            "that one fused launch makes (loader.explain() shows the launches); stream it instead"
        )


def _decoded(loader: Loader, name: str, rows: IntArray) -> ByteArray:
    """Return the pixels of a field's images, uint8 (N, H, W, C)."""
    decoder = loader.dataset.fields[name].get_decoder_class()()
    others = dict.fromkeys(loader.dataset.fields)
    given = {key: loader._args[key] for key in ("custom_fields", "dct", "os_cache", "cache_dir")}
    plain = Loader(
        loader.fname, 512, loader.num_workers, indices=rows.tolist(), drop_last=False, device="cpu", seed=0,
        pipelines={**others, name: [decoder]}, **given,
    )  # fmt: skip
    pixels: ByteArray | None = None
    done = 0
    for (images,) in plain:
        if pixels is None:
            pixels = np.empty((rows.size, *images.shape[1:]), np.uint8)
        pixels[done : done + len(images)] = images
        done += len(images)
    assert pixels is not None, "a loader has rows"
    return pixels
