"""The speed of a decoder: batches in turn on states, streams and threads, timed by `bench.timed`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.gpu.bench import Bench, Row, timed
from benchmarks.gpu.decoders import Batch, Handle, Job, Refusal, Single
from benchmarks.gpu.pictures import FORMATS, Arena, Pictures

__all__ = ["Lane", "alike_lanes", "by_batches", "by_singles", "lanes_of", "totals"]


@dataclass
class Lane:
    """A state on a separate stream, and the batches that it decodes in turn, each into an arena."""

    bench: Bench
    batch: Batch
    jobs: list[Job]
    #: re-initialise before every batch
    initialize: bool = False
    #: of its preparation: if that was refused, so is every batch
    status: int = 0
    call_seconds: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.stream, self.event = self.bench.gpu.stream(), self.bench.gpu.event()

    def start(self, job: Job) -> None:
        """Submit a batch after waiting for the previous one, as a loader must; raises `Refusal`."""
        if self.status:
            raise Refusal("preparing a batch", self.status)
        self.wait()
        start = time.perf_counter()
        status = self.batch.initialize() if self.initialize else 0
        status = status or self.batch.decode(job, self.bench.gpu.handle(self.stream))
        self.call_seconds += time.perf_counter() - start
        if status:
            raise Refusal("nvjpegDecodeBatched", status)
        self.bench.gpu.record(self.event, self.stream)

    def wait(self) -> None:
        """Wait on the host for the batch in flight."""
        self.bench.gpu.await_event(self.event)

    def all(self) -> None:
        """Decode all batches and wait."""
        for job in self.jobs:
            self.start(job)
        self.wait()


def lanes_of(
    bench: Bench, handle: Handle, pictures: Sequence[Pictures], output: str = "rgbi", *, count: int = 1,
    in_order: bool = False, initialize: bool = False, reserve: tuple[int, int] | None = None,
) -> list[Lane]:  # fmt: skip
    """Make `count` lanes that decode the same pictures; `reserve`: width and height to preallocate for."""
    found = []
    for _ in range(count):
        batch = Batch(handle, pictures[0].count, FORMATS[output])
        status = batch.initialize()
        if status == 0 and reserve is not None:
            status = batch.preallocate(*reserve)
        jobs = [
            Job.of(p, Arena(bench.gpu, p.sizes, FORMATS[output]), sorted_order(p) if in_order else None)
            for p in pictures
        ]
        found.append(Lane(bench, batch, jobs, initialize, status))
    return found


def alike_lanes(bench: Bench, handle: Handle, pictures: Sequence[Pictures]) -> list[Lane]:
    """Make a lane per subsampling, largest images first: the fastest way for the engines."""
    groups: dict[int, list[Pictures]] = {}
    for each in pictures:
        kinds = np.array([0 if s.subsampling == 6 else s.subsampling for s in each.sizes])
        pixels = np.array([s.height * s.width for s in each.sizes])
        for kind in np.unique(kinds).tolist():
            which = np.flatnonzero(kinds == kind)
            which = which[np.argsort(-pixels[which], kind="stable")]
            groups.setdefault(kind, []).append(Pictures.of(bench.gpu, [each.files[i] for i in which]))
    lanes = []
    for found in groups.values():
        batch = Batch(handle, found[0].count, FORMATS["rgbi"])
        jobs = [Job.of(p, Arena(bench.gpu, p.sizes, FORMATS["rgbi"])) for p in found]
        lanes.append(Lane(bench, batch, jobs))
    return lanes


def sorted_order(pictures: Pictures) -> Any:
    """Return DALI's order: by subsampling, largest first."""
    return np.lexsort(
        ([-s.height * s.width for s in pictures.sizes], [s.subsampling for s in pictures.sizes])
    )


def totals(pictures: Sequence[Pictures], times: int = 1) -> dict[str, float]:
    """Return the images, megapixels and megabytes of all batches, decoded `times` times."""
    return {
        "images": float(times * sum(p.count for p in pictures)),
        **{key: times * sum(p.facts[key] for p in pictures) for key in ("megapixels", "megabytes")},
    }


def by_batches(
    bench: Bench, case: str, lanes: Sequence[Lane], *, threads: bool = False, keep: bool = False, **more: Any
) -> Iterator[Row]:
    """Measure lanes: in turn in one thread, or each in a separate thread. Their states are destroyed
    afterwards, unless `keep`."""
    pictures = [job.pictures for lane in lanes for job in lane.jobs]

    def one_thread() -> dict[str, float]:
        for turn in range(max(len(lane.jobs) for lane in lanes)):
            for lane in lanes:
                if turn < len(lane.jobs):
                    lane.start(lane.jobs[turn])
        for lane in lanes:
            lane.wait()
        return answer()

    def answer() -> dict[str, float]:
        seconds = sum(lane.call_seconds for lane in lanes)
        for lane in lanes:
            lane.call_seconds = 0.0
        return {**totals(pictures), "call_seconds": seconds}

    with ThreadPoolExecutor(len(lanes), initializer=bench.gpu.use) as pool:

        def many_threads() -> dict[str, float]:
            list(pool.map(Lane.all, lanes))
            return answer()

        yield from timed(bench, case, many_threads if threads else one_thread, **more)
    for lane in () if keep else lanes:
        lane.batch.give_up()


def by_singles(
    bench: Bench, case: str, handle: Handle, decoder: str, pictures: Sequence[Pictures], *, states: int,
    threads: bool, pages: int = 2, **more: Any,
) -> Iterator[Row]:  # fmt: skip
    """Measure the decoupled calls: images distributed over states, each in a thread or all in one."""
    singles = [Single(bench.gpu, handle, decoder, FORMATS["rgbi"], pages) for _ in range(states)]
    arenas = [Arena(bench.gpu, p.sizes, FORMATS["rgbi"]) for p in pictures]

    def share(k: int) -> None:
        single = singles[k]
        for batch, arena in zip(pictures, arenas, strict=True):
            for i in range(k, batch.count, states):
                started(single.decode(batch, arena, i))
        bench.wait(single.stream)

    def in_turn() -> dict[str, float]:
        for batch, arena in zip(pictures, arenas, strict=True):
            for i in range(batch.count):
                started(singles[i % states].decode(batch, arena, i))
        for single in singles:
            bench.wait(single.stream)
        return totals(pictures)

    with ThreadPoolExecutor(states, initializer=bench.gpu.use) as pool:

        def dealt() -> dict[str, float]:
            list(pool.map(share, range(states)))
            return totals(pictures)

        yield from timed(bench, case, dealt if threads else in_turn, states=states, **more)


def started(status: int) -> None:
    if status:
        raise Refusal("the decoupled calls", status)
