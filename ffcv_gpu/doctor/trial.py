"""Loads some samples of a file as a training loop would, and times each stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import get_ident
from time import perf_counter, process_time, thread_time
from typing import Any

import numpy as np

from ffcv_gpu.cpus import cpus_per_rank
from ffcv_gpu.dataset.dataset import Dataset
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields.decoders import RandomResizedCropRGBImageDecoder
from ffcv_gpu.loader import Loader
from ffcv_gpu.pipeline import PipelineSpec
from ffcv_gpu.pipeline.doubts import without_doubts
from ffcv_gpu.trace.watchers import Mark
from ffcv_gpu.transforms import RandomHorizontalFlip

__all__ = ["Setup", "Trial", "loader_of", "run_trial"]

REPEATS = 3
#: stages in which a CPU thread computes, and does not wait if the file is in memory
COMPUTING = ("plan", "read", "check", "gather", "decode", "compose", "operate", "finish")
#: stages of the thread that plans and collects batches, and of the loop that takes them
CONDUCTING = ("plan", "ahead", "wait")


@dataclass(frozen=True)
class Setup:
    """How a file is loaded, and how its batches are consumed.

    Parameters
    ----------
    batch_size : int
    workers : int
        Threads; less than 1: one per CPU of this process.
    side : int
        Side of the output images, for fields without an entry in `pipelines`.
    step_seconds : float or None
        Your training step for one batch, without waits; None: nothing consumes the batches.
    cold : bool or None
        Whether payloads come from storage; None: if the file does not fit in memory. Never if storage cannot
        be measured, as in a file system in memory.
    pipelines : mapping, optional
        As for the Loader; image fields not in it get random-resized-crop to `side` and flip.
    custom_fields : mapping, optional
        As for the Loader.

    Raises
    ------
    PipelineError
        For a `batch_size` or `side` below 1, or a `step_seconds` that is not positive.
    """

    batch_size: int = 256
    workers: int = -1
    side: int = 224
    step_seconds: float | None = None
    cold: bool | None = None
    pipelines: Mapping[str, Any] = field(default_factory=dict)
    custom_fields: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.side < 1:
            raise PipelineError(f"batch_size={self.batch_size}, side={self.side}: both must be at least 1")
        if self.step_seconds is not None and self.step_seconds <= 0:
            raise PipelineError(f"step_seconds={self.step_seconds:g}: give a positive number, or None")

    @property
    def threads(self) -> int:
        """The number of worker threads that `workers` stands for."""
        return self.workers if self.workers >= 1 else cpus_per_rank()

    def steps(self, dataset: Dataset) -> dict[str, Any]:
        """Return pipelines for all image fields of a file, with `pipelines` taking precedence."""
        images = {name: self.image_steps(name) for name in dataset.fields if dataset.is_image(name)}
        return {**images, **self.pipelines}

    def image_steps(self, name: str | None) -> Any:
        """Return the pipeline of one image field; the default one if only views of it are given."""
        given = self.pipelines.get(name or "")
        crop = RandomResizedCropRGBImageDecoder((self.side, self.side))
        return given if isinstance(given, Sequence) else [crop, RandomHorizontalFlip()]

    @property
    def dropped(self) -> frozenset[Any]:
        """The fields that `pipelines` leaves out (None), and of which it has no view."""
        views = (steps.source for steps in self.pipelines.values() if isinstance(steps, PipelineSpec))
        return frozenset(name for name, steps in self.pipelines.items() if steps is None) - {*views}

    def without(self, names: Sequence[str]) -> Setup:
        """Return this setup with some fields left out."""
        return replace(self, pipelines={**self.pipelines, **dict.fromkeys(names)})


@dataclass(frozen=True)
class Trial:
    """One epoch over some samples, loaded several times with the same crops; each time is the minimum.

    Attributes
    ----------
    samples, batches : int
    seconds : float
        Wall-clock seconds of the epoch, from the first wait to the last batch.
    conducting_seconds : float
        CPU time of the two threads that do no sample's work: the one that plans and collects batches, and
        the loop that takes them. Without what starts and ends an epoch.
    stages : mapping of str to float
        Seconds per stage, summed over threads. On the CPU, without the time lost to other processes.
    items : mapping of str to int
        Samples that went through each stage.
    """

    samples: int
    batches: int
    seconds: float
    conducting_seconds: float
    stages: Mapping[str, float]
    items: Mapping[str, int]

    def each(self, stage: str) -> float:
        """Return a stage's seconds per sample that went through it; 0 if none did."""
        items = self.items.get(stage, 0)
        return self.stages.get(stage, 0.0) / items if items else 0.0


def loader_of(
    path: str,
    setup: Setup,
    rows: Sequence[int],
    *,
    workers: int = 1,
    batch_size: int,
    device: Any = "cpu",
    cpu_share: float | str = 0.0,
) -> Loader:
    """Return the loader of a trial."""
    dataset = Dataset(path, setup.custom_fields, os_cache=True)
    with without_doubts():
        return Loader(
            path,
            batch_size,
            workers,
            indices=list(rows),
            pipelines=setup.steps(dataset),
            custom_fields=setup.custom_fields,
            drop_last=False,
            seed=0,
            device=device,
            cpu_share=cpu_share,
        )


def run_trial(
    path: str, setup: Setup, rows: Sequence[int], *, device: Any = "cpu", batch_size: int, **options: Any
) -> Trial:
    """Load `rows` of a file `REPEATS` times, after an untimed epoch to compile and fill the page cache.

    The options are those of `loader_of`.
    """
    with loader_of(path, setup, rows, batch_size=batch_size, device=device, **options) as loader:
        _epoch(loader)
        loader.reset_stats()
        walls, conducting, seconds, items = [], [], dict[str, float](), dict[str, int]()
        for _ in range(REPEATS):
            threads, begin = _Conducting(), process_time()
            loader._clock.watch(threads)
            with loader.profile() as profile:
                walls.append(_epoch(loader))
            loader._clock.unwatch(threads)
            cpu = process_time() - begin
            conducting.append(threads.seconds)
            stages = profile.stats().stages
            free = _share_of_cpu(stages, cpu) if device == "cpu" else 1.0
            for name, stage in stages.items():
                seconds[name] = min(free * stage.seconds, seconds.get(name, np.inf))
                items[name] = stage.items
        return Trial(len(rows), len(loader), min(walls), min(conducting), seconds, items)


class _Conducting:
    """Watches a clock for the CPU time of the threads that plan, collect and take batches.

    Read in these threads themselves. The process's CPU time without the workers' stages would not do: the
    small difference of two large numbers, it was up to 70 us per photo where these threads took 15.
    """

    def __init__(self) -> None:
        self._began: dict[int, float] = {}
        self._ended: dict[int, float] = {}

    def begin(self, mark: Mark) -> None:
        """Note when this thread's first such span began."""
        if mark.stage in CONDUCTING:
            self._began.setdefault(get_ident(), thread_time())

    def end(self, mark: Mark, begun: Any, start: float, seconds: float) -> None:
        """Note when its last one ended."""
        if mark.stage in CONDUCTING:
            self._ended[get_ident()] = thread_time()

    @property
    def seconds(self) -> float:
        """Seconds between the first and the last span, of all these threads."""
        return sum(end - self._began[thread] for thread, end in self._ended.items())


def _share_of_cpu(stages: Mapping[str, Any], cpu_seconds: float) -> float:
    """Return the share of the computing stages' time in which threads had a CPU; 1 on an idle machine."""
    wanted = sum(stages[name].seconds for name in COMPUTING if name in stages)
    return min(1.0, cpu_seconds / wanted) if wanted else 1.0


def _epoch(loader: Loader) -> float:
    loader.set_epoch(0)  # the same crops each time: the work depends on them if only they are decoded
    begin = perf_counter()
    for _ in loader:
        pass
    return perf_counter() - begin
