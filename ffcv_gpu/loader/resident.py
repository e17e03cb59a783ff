"""A dataset that stays in memory: decoded once, then augmented there without reading or decoding again.

For small images and many epochs: 50,000 images of 32 x 32 pixels take 0.15 GB. With a GPU the pixels are in
its memory, and a batch costs an upload of a few kilobytes and one launch per output.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ffcv_gpu.device.host_memory import available_bytes
from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.loader.course import Progress
from ffcv_gpu.loader.iterator import EpochIterator, Run
from ffcv_gpu.loader.job import Made, after_steps, made_of
from ffcv_gpu.loader.loader import Loader
from ffcv_gpu.loader.resident_makers import ByteArray, CpuMaker, GpuMaker, OutputMaker, Outputs
from ffcv_gpu.loader.weights import IN_FLIGHT
from ffcv_gpu.pipeline.program import FusedStage, Program
from ffcv_gpu.plan import BatchPlan, plan_stages, settled, stage_program
from ffcv_gpu.steps import IntArray

__all__ = ["ResidentLoader"]


class ResidentLoader:
    """Iterates over the batches of a `Loader` from memory, with the same samples, random numbers and outputs.

    Each epoch's thread prepares batches ahead: the loader's `batches_ahead` (at least 2), plus one that is in
    progress. Batches stay valid as long as you keep them, as those of a `Loader`.

    Parameters
    ----------
    loader : Loader
        Its outputs must be numbers, or images that have one size in the file and are made by one fused launch
        (crops, flips, shifts, cutouts, colours except contrast, normalisation). Both loaders share the epoch
        number and the saved state. JPEGs are decoded at construction, by libjpeg-turbo on the CPU; on a GPU,
        the pixels of a streamed epoch may differ where nvJPEG rounds differently.

    Attributes
    ----------
    loader : Loader
        Its `stats`, `profile` and `trace` show these epochs, too.
    size_bytes : int
        The size of the decoded pixels.

    Raises
    ------
    PipelineError
        If an output cannot be made from memory (the message names it), or the host has too little memory.
    DecodeError, ReadError
        If a sample is damaged, regardless of the loader's `on_error`.
    OutOfGpuMemory
        If the pixels do not fit on the GPU.
    """

    def __init__(self, loader: Loader) -> None:
        if not isinstance(loader, Loader):
            raise PipelineError(f"ResidentLoader takes a Loader, not {type(loader).__name__}")
        self.loader, self.indices = loader, loader.indices
        programs = loader._programs
        self._launches, self._largest = _launches(programs), loader.batch_size
        needed, free = self.bytes_of(loader), available_bytes()
        if needed > free:
            raise PipelineError(
                f"{loader.dataset.path}: the decoded images take {needed / 1e6:,.2f} MB, and "
                f"{free / 1e6:,.2f} MB of the host's memory are free; use fewer samples "
                "(indices=), or stream them (Loader)"
            )
        rows = np.unique(loader.indices)
        self._places = np.full(len(loader.dataset), -1, np.int64)
        self._places[rows] = np.arange(rows.size)
        pixels = {name: _decoded(loader, name, rows) for name in {p.field for p in programs if p.stages}}
        self._sizes = {name: images.shape[1:3] for name, images in pixels.items()}
        self.size_bytes = sum(images.nbytes for images in pixels.values())
        host = [program for program in programs if program.device == "cpu"]
        there = [program for program in programs if program.device != "cpu"]
        keep = loader.batches_ahead + 3
        self._makers: list[OutputMaker] = [CpuMaker(host, pixels, loader.dataset, loader.num_workers, keep)]
        self._gpu = loader._assembly.gpu if there else None
        if self._gpu is not None:
            largest = np.resize(rows, loader.batch_size)  # indices may contain a row several times
            plan = _plan(programs, self._sizes, Draws(0, 0, largest), 0)
            self._makers.append(GpuMaker(there, pixels, loader.dataset, self._gpu, plan))
        self._process = os.getpid()

    @staticmethod
    def bytes_of(loader: Loader) -> int:
        """Return how many bytes the decoded images of `loader` would take."""
        fields = {program.field for program in loader._programs if program.stages}
        count = np.unique(loader.indices).size
        return int(sum(count * loader.dataset.mean_pixel_bytes(name, loader.indices) for name in fields))

    @classmethod
    def fits(cls, loader: Loader, share: float = 0.25) -> bool:
        """Return whether the pixels take at most `share` of the GPU's memory and the host's free memory."""
        gpu = loader._assembly.gpu
        room = available_bytes() if gpu is None else min(available_bytes(), gpu.owner.total_bytes())
        return cls.bytes_of(loader) <= share * room

    def __len__(self) -> int:
        """Batches per epoch on this rank."""
        return len(self.loader)

    def __iter__(self) -> EpochIterator:
        """Start the loader's next epoch; see `Loader.__iter__`.

        Raises
        ------
        PipelineError
            If the loader now has images that are not in memory, outputs that are not made as before, or (on a
            GPU) larger batches. A crop's new `scale` and `ratio` are followed.
        """
        loader = self.loader
        loader._follow_fork()
        if os.getpid() != self._process:
            for maker in self._makers:
                maker.begin_process()
            self._process = os.getpid()
        if loader.indices is not self.indices and (self._places[loader.indices] < 0).any():
            raise PipelineError(
                f"{loader.dataset.path}: the loader's indices were replaced, and some of their images are not"
                " in memory; create a new ResidentLoader"
            )
        with loader._starting:
            programs = loader._assembly.programs()
            self._check_unchanged(programs)
            loader._programs = programs
            loader._compare_with_saved()
            loader._assembly.follow_user(programs)
            progress = loader._coming_epoch()
            run = _ResidentRun(self, programs, progress)
            return loader._begun(EpochIterator(run, progress), progress)

    def _check_unchanged(self, programs: Sequence[Program]) -> None:
        """Raise `PipelineError` if batches are to be made in another way than this object was made for."""
        loader, now = self.loader, _launches(programs)
        changed = [f"output {name!r}" for name, how in now.items() if how != self._launches[name]]
        if self._gpu is not None and loader.batch_size > self._largest:
            changed.append(f"batch_size ({loader.batch_size}, was {self._largest})")
        if changed:
            raise PipelineError(
                f"{loader.dataset.path}: {', '.join(changed)} changed after this ResidentLoader was made;"
                " create a new ResidentLoader"
            )

    def close(self) -> None:
        """Call `Loader.close` of `loader`."""
        self.loader.close()

    def set_epoch(self, epoch: int) -> None:
        """Call `Loader.set_epoch` of `loader`."""
        self.loader.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return `Loader.state_dict` of `loader`."""
        return self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Call `Loader.load_state_dict` of `loader`."""
        self.loader.load_state_dict(state)


class _ResidentRun(Run):
    """One epoch; see `Run`."""

    def __init__(self, resident: ResidentLoader, programs: Sequence[Program], progress: Progress) -> None:
        loader = resident.loader
        self._programs = [replace(program, stages=settled(program.stages)) for program in programs]
        self._resident, self._ids, self._seed = resident, progress.course.batches(), loader.seed
        counts = len(self._ids), 1, loader.num_workers, IN_FLIGHT, loader.batches_ahead
        super().__init__(*counts, loader._clock, progress.epoch)

    def begin(self, index: int, count: int) -> _ResidentBatch:
        """Plan a batch and start it."""
        resident, ids = self._resident, self._ids[index]
        clock = self.clock.of_batch(index, self.epoch)
        with clock.span("plan", items=ids.size):
            draws, places = Draws(self._seed, self.epoch, ids), resident._places[ids]
            plan = _plan(self._programs, resident._sizes, draws, index)
        parts = [maker.begin(plan, places, self.executor, clock) for maker in resident._makers]
        return _ResidentBatch(plan, parts, self._made)

    def _made(self, plan: BatchPlan, memory: Mapping[str, Any]) -> Made:
        """Return a finished batch, whose launches are done or, on a GPU, submitted."""

        def finish(program: Program) -> Any:
            maker = self._resident._makers[program.device != "cpu"]
            value = maker.finish(memory[program.name], program)
            return after_steps(program.name, program.tail, value, plan)

        with self.clock.of_batch(plan.index, plan.epoch).span("finish", items=len(plan)):
            return made_of(self._programs, self._resident._gpu, finish)

    def passed(self, index: int) -> None:
        """Do nothing: a batch holds no resources of its own."""

    def interrupt(self) -> None:
        """Do nothing: nothing waits for the disk."""

    def release(self) -> None:
        """Do nothing: the images stay in memory."""


class _ResidentBatch:
    """A batch that has been started; see `ffcv_gpu.loader.iterator.Batch`."""

    def __init__(self, plan: BatchPlan, parts: list[Outputs], made: Callable[..., Made]) -> None:
        self._plan, self._parts, self._made = plan, parts, made
        self.index = self.last = plan.index

    def results(self) -> Iterator[Made]:
        """Wait for the workers; a GPU may still be writing."""
        memory: dict[str, Any] = {}
        for part in self._parts:
            for future in part.futures:
                future.result()
            memory |= part.memory
        yield self._made(self._plan, memory)

    def cancel(self) -> None:
        """Cancel what has not started."""
        for part in self._parts:
            for future in part.futures:
                future.cancel()

    def settle(self) -> None:
        """Do nothing: memory that a GPU writes is only reused in the order of its stream."""


def _plan(
    programs: Sequence[Program], sizes: Mapping[str, tuple[int, int]], draws: Draws, index: int
) -> BatchPlan:
    """Return the plan of a batch as `Planner.plan` does, but without payloads, which are not read."""
    stages = {}
    for program in programs:
        if program.stages:
            heights, widths = (np.full(len(draws), side) for side in sizes[program.field])
            stages[program.name] = plan_stages(program.stages, heights, widths, draws)
    return BatchPlan(draws.seed, draws.epoch, index, draws.samples, {}, stages)


def _check(program: Program) -> None:
    """Raise `PipelineError` if an output cannot be made from memory."""
    stages = program.stages
    one = len(stages) == 1 and isinstance(stages[0], FusedStage) and not stages[0].wide
    if one and not stages[0].measures:  # type: ignore[union-attr]
        return
    if stages or program.decoder.gives_rows or program.fused.shape not in ((1,), ()):
        raise PipelineError(
            f"output {program.name!r} cannot be made from memory: only numbers can, and 8-bit images made by "
            "one fused launch (loader.explain() shows the launches); use the Loader itself instead"
        )


def _launches(programs: Sequence[Program]) -> dict[str, tuple[Any, ...]]:
    """Return for each output how it is made, apart from what plans and later steps say; comparable."""
    found = {}
    for program in programs:
        _check(program)
        how: tuple[Any, ...] = (program.field, program.device, program.fused)
        for stage in program.stages:
            assert isinstance(stage, FusedStage), "checked"
            fixed, whole = stage_program(stage), stage.sampling.frame() is None
            how += (stage.frame, whole, stage.resize, stage.dtype, stage.planar, stage.table.tobytes())
            how += (fixed.ops.tolist(), fixed.fills.tolist(), fixed.late_from)
        found[program.name] = how
    return found


def _decoded(loader: Loader, name: str, rows: IntArray) -> ByteArray:
    """Return the pixels of a field's images, uint8 (N, H, W, C)."""
    decoder = loader.dataset.fields[name].get_decoder_class()()
    others = dict.fromkeys(loader.dataset.fields)
    given = {key: loader._args[key] for key in ("custom_fields", "dct", "os_cache", "cache_dir")}
    plain = Loader(
        loader.dataset, 512, loader.num_workers, indices=rows.tolist(), drop_last=False, device="cpu", seed=0,
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
