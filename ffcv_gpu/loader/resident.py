"""A dataset that stays in memory: decoded once, then augmented there, with neither file nor decoder.

For small images and many epochs: 50,000 images of 32 x 32 pixels take 0.15 GB. On a GPU the pixels lie on the
GPU, and a batch costs an upload of some kilobytes and one launch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ffcv_gpu.device.host_memory import available_bytes
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.loader.course import Progress
from ffcv_gpu.loader.job import Made, after_steps, arrays_in
from ffcv_gpu.loader.loader import Loader
from ffcv_gpu.loader.resident_makers import Begun, ByteArray, CpuMaker, GpuMaker, Maker
from ffcv_gpu.pipeline.program import FusedStage, Program
from ffcv_gpu.plan import BatchPlan, Planner
from ffcv_gpu.steps import IntArray

__all__ = ["ResidentLoader"]


class ResidentLoader:
    """Gives the batches of a Loader out of memory: equal samples, random numbers and outputs.

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
        self._payloads = {p.field: loader.dataset.payloads(p.field) for p in self._programs if p.stages}
        pixels = {name: _decoded(loader, name, rows) for name in self._payloads}
        self.size_bytes = sum(images.nbytes for images in pixels.values())
        host = [program for program in self._programs if program.device == "cpu"]
        there = [program for program in self._programs if program.device != "cpu"]
        self._makers: list[Maker] = [CpuMaker(host, pixels, loader.dataset, loader.num_workers)]
        self._gpu = loader._assembly.gpu if there else None
        if self._gpu is not None:
            largest = np.resize(rows, loader.batch_size)  # indices may say a row many times
            plan = self._planner(0).plan(0, largest)
            self._makers.append(GpuMaker(there, pixels, loader.dataset, self._gpu, plan))

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

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """Begin the loader's next epoch."""
        progress = self.loader._coming_epoch()
        self.loader._epoch_begun(progress)
        return self._epoch(progress)

    def set_epoch(self, epoch: int) -> None:
        """As `Loader.set_epoch`, of `loader`."""
        self.loader.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """As `Loader.state_dict`, of `loader`."""
        return self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As `Loader.load_state_dict`, of `loader`."""
        self.loader.load_state_dict(state)

    def _planner(self, epoch: int) -> Planner:
        payloads = {name: found for name, found in self._payloads.items() if found is not None}
        return Planner(self._programs, payloads, seed=self.loader.seed, epoch=epoch)

    def _epoch(self, progress: Progress) -> Iterator[tuple[Any, ...]]:
        """Yield the batches; each is begun before the one before it is handed out."""
        planner, ahead = self._planner(progress.epoch), None
        with ThreadPoolExecutor(self.loader.num_workers, thread_name_prefix="ffcv_gpu-resident") as executor:
            for index, ids in enumerate(progress.course.batches()):
                plan = planner.plan(index, ids)
                begun = plan, [maker.begin(plan, self._places[ids], executor) for maker in self._makers]
                if ahead is not None:
                    yield self._hand_over(progress, *ahead)
                ahead = begun
            if ahead is not None:
                yield self._hand_over(progress, *ahead)

    def _hand_over(self, progress: Progress, plan: BatchPlan, begun: list[Begun]) -> tuple[Any, ...]:
        batch = self._made(plan, begun)
        progress.handed += 1
        return batch

    def _made(self, plan: BatchPlan, begun: list[Begun]) -> tuple[Any, ...]:
        memory: dict[str, Any] = {}
        for part in begun:
            for future in part.futures:
                future.result()
            memory |= part.memory
        if self._gpu is None:
            return tuple(self._finished(p, memory[p.name], plan) for p in self._programs)
        gpu = self._gpu
        with gpu.owner.working_on(gpu.stream):
            values = tuple(self._finished(p, memory[p.name], plan) for p in self._programs)
        ready = gpu.new_event()
        gpu.stream.record(ready)
        there = [v for v, p in zip(values, self._programs, strict=True) if p.spec.device != "cpu"]
        return Made(values, gpu, tuple(arrays_in(there)), ready).receive()

    def _finished(self, program: Program, memory: Any, plan: BatchPlan) -> Any:
        return after_steps(program, self._makers[program.device != "cpu"].finish(memory, program), plan)


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
    given = {key: loader._args[key] for key in ("custom_fields", "dct", "os_cache")}
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
