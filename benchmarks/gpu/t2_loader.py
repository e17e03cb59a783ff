"""T2: the loader beside bare nvJPEG on the same images; CPU time an image; few cores; raw and mixed files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu.bench import Bench, check, fact
from benchmarks.gpu.datasets import epochs, loader_of, long_epoch, stored
from benchmarks.gpu.e10_cores import on_cores
from benchmarks.gpu.peers import BATCH
from benchmarks.gpu.speed import measured
from benchmarks.gpu.t1_decode import bare

__all__ = ["loader_rows", "run"]

Row = dict[str, Any]
#: what is promised: of bare nvJPEG; microseconds of the CPU an image; with two cores, of the peak
OF_BARE, CPU_US, OF_PEAK = 0.98, 60.0, 0.9
CORES = (2, 4)


def run(bench: Bench) -> Iterator[Row]:
    """Measure; the promises become checks that say how far they hold."""
    files = bench.photos()
    rates: dict[str, Row] = {}
    for row in bare(bench, bench.rotation(bench.scale.batch, files=files)):
        if row["row"] == "result":
            rates["bare"] = max(rates.get("bare", row), row, key=lambda found: found["images_per_second"])
        yield row
    usable = sorted(os.sched_getaffinity(0))
    for kind in bench.scale.kinds:
        path = stored(bench, kind, files, bench.scale.samples)
        for row in loader_rows(bench, path, f"{kind}, all cores", len(usable)):
            if row["row"] == "result":
                rates[kind] = row
            yield row
    path = stored(bench, "jpeg", files, bench.scale.samples)
    for cores in (n for n in CORES if n < len(usable)):
        with on_cores(usable[:cores]):
            for row in loader_rows(bench, path, f"jpeg, {cores} cores", cores):
                if row["row"] == "result":
                    rates[f"{cores} cores"] = row
                yield row
    yield from _promises(rates)


def loader_rows(bench: Bench, path: Path, case: str, workers: int) -> Iterator[Row]:
    """Measure the loader over a file: 224 pixels, normalised float16."""
    side = 32 if bench.gpu.rehearsal else 224
    more = {"num_workers": workers, "indices": long_epoch(bench)}
    loader = loader_of(path, bench.scale.batch, device=bench.gpu.name, output="float16", side=side, **more)
    counts: dict[str, Any] = {}

    def turn() -> dict[str, float]:
        loader.reset_stats()
        answer = epochs(loader, 0.0, lambda images: None, bench.gpu.synchronize)
        counts.update({name: stage.seconds for name, stage in loader.stats().stages.items()})
        return answer

    yield from measured(bench, f"loader, {case}", turn, kind=BATCH, workers=workers)
    yield fact(f"seconds of an epoch by stage, {case}", **{name: round(s, 4) for name, s in counts.items()})


def _promises(rates: dict[str, Row]) -> Iterator[Row]:
    ours = rates.get("jpeg")
    if ours is None:
        return
    if "bare" in rates:
        ratio = ours["images_per_second"] / rates["bare"]["images_per_second"]
        yield check(f"the loader is at least {OF_BARE} of bare nvJPEG", ratio >= OF_BARE, must=False,
                    of_bare=round(ratio, 3))  # fmt: skip
    cpu = ours["cpu_us_per_image"]
    yield check(f"at most {CPU_US:.0f} us of the CPU an image", cpu <= CPU_US, must=False, cpu_us=cpu)
    few = rates.get(f"{CORES[0]} cores")
    if few is not None:
        ratio = few["images_per_second"] / ours["images_per_second"]
        yield check(f"{CORES[0]} cores give {OF_PEAK} of the peak", ratio >= OF_PEAK, must=False,
                    ratio=round(ratio, 3))  # fmt: skip
