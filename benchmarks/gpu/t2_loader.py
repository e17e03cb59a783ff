"""T2: the loader against bare nvJPEG on the same images; CPU time per image; few cores; raw, mixed files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.bench import Bench, Row, best, check, collected, fact, timed
from benchmarks.gpu.datasets import loader_of, long_epoch, stored
from benchmarks.gpu.e10_cores import on_cores
from benchmarks.gpu.peers import BATCH
from benchmarks.gpu.t1_decode import bare

__all__ = ["SHARED", "loader_rows", "promises", "run"]

#: aims: share of bare nvJPEG; microseconds of CPU per image; share of the peak with two cores
OF_BARE, CPU_US, OF_PEAK = 0.98, 60.0, 0.9
CORES = (2, 4)
#: end of a case in which idle CPU cores decode, too
SHARED = ", cpu_share auto"


def run(bench: Bench) -> Iterator[Row]:
    """Measure; check the aims."""
    files = bench.photos()
    theirs: list[Row] = []
    yield from collected(bare(bench, bench.rotation(bench.scale.batch, files=files)), theirs)
    usable = sorted(os.sched_getaffinity(0))
    cases = [(kind, "all cores", usable) for kind in bench.scale.kinds]
    cases += [("jpeg", f"{n} cores", usable[:n]) for n in CORES if n < len(usable)]
    ours: list[Row] = []
    for kind, where, cores in cases:
        path = stored(bench, kind, files, bench.scale.samples)
        with on_cores(cores):
            found = loader_rows(bench, path, f"{kind}, {where}", len(cores))
            yield from collected(found, ours if kind == "jpeg" else [])
    yield from promises(ours, best(theirs))


def loader_rows(
    bench: Bench, path: Path, case: str, workers: int, output: str = "float16", **settings: Any
) -> Iterator[Row]:
    """Measure the loader over a file, one epoch per turn: 224 pixels, normalised unless uint8."""
    side = 32 if bench.gpu.rehearsal else 224
    more = {"num_workers": workers, "indices": long_epoch(bench), **settings}
    loader = loader_of(path, bench.scale.batch, device=bench.gpu.name, output=output, side=side, **more)
    seconds: dict[str, float] = {}
    images_by: dict[str, int] = {}

    def turn() -> dict[str, float]:
        loader.reset_stats()
        images = sum(len(batch[0]) for batch in loader)
        bench.gpu.synchronize()
        stats = loader.stats()
        seconds.update({name: round(stage.seconds, 4) for name, stage in stats.stages.items()})
        images_by.update(stats.counts)
        return {"images": float(images)}

    yield from timed(bench, f"loader, {case}", turn, kind=BATCH, workers=workers)
    if seconds:  # empty if the case was kept from an earlier run
        yield fact(f"seconds of an epoch by stage, {case}", **seconds)
        yield fact(f"images of an epoch by decoder, {case}", **images_by)


def promises(ours: Sequence[Row], bare: float) -> Iterator[Row]:
    """Check the aims; `ours`: the loader's results with JPEGs, by cores; the fastest is the peak."""
    if not ours:
        return
    peak = max(ours, key=lambda row: float(row["images_per_second"]))
    cores = peak["workers"]
    if bare:
        ratio = peak["images_per_second"] / bare
        yield check(f"the loader is at least {OF_BARE} of bare nvJPEG", ratio >= OF_BARE, must=False,
                    of_bare=round(ratio, 3), cores=cores)  # fmt: skip
    cpu = peak["cpu_us_per_image"]
    yield check(f"at most {CPU_US:.0f} us of CPU per image", cpu <= CPU_US, must=False, cpu_us=cpu,
                cores=cores)  # fmt: skip
    for few in (row for row in ours if row["workers"] == CORES[0]):
        ratio = few["images_per_second"] / peak["images_per_second"]
        yield check(f"{CORES[0]} cores give {OF_PEAK} of the peak", ratio >= OF_PEAK, must=False,
                    ratio=round(ratio, 3))  # fmt: skip
