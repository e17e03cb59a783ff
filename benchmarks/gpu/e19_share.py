"""E19: the JPEG engines and idle CPU cores at once: the loader by its `cpu_share` and by cores."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from benchmarks.gpu.bench import Bench, Row, check, collected
from benchmarks.gpu.datasets import stored
from benchmarks.gpu.e10_cores import on_cores
from benchmarks.gpu.t2_loader import loader_rows

__all__ = ["gain", "run"]

#: 0 is the GPU alone; 1 the CPU alone, whose pixels the GPU resamples
SHARES: tuple[float | str, ...] = (0, 0.2, 0.4, 1, "auto")
FEW = 2
#: "auto" is kept, and may become the default, if it is this many times as fast as the better of GPU and CPU
GAIN = 1.3


def run(bench: Bench) -> Iterator[Row]:
    """Measure; check whether both together are worth it."""
    path = stored(bench, "jpeg", bench.photos(), bench.scale.samples)
    usable = sorted(os.sched_getaffinity(0))
    for count in dict.fromkeys((len(usable), min(FEW, len(usable)))):
        found: list[Row] = []
        with on_cores(usable[:count]):
            for share in SHARES:
                case = f"{count} cores, cpu_share {share}"
                rows = loader_rows(bench, path, case, count, cpu_share=share)
                yield from collected(rows, found)
        yield from gain(found, count)


def gain(found: Sequence[Row], cores: int) -> Iterator[Row]:
    """Compare "auto" with the better of the GPU alone and the CPU alone; `found` has results by case."""
    rates = {row["case"].rpartition(" ")[2]: float(row["images_per_second"]) for row in found}
    alone = [rates[one] for one in ("0", "1") if one in rates]
    if not alone or "auto" not in rates:
        return
    ratio = rates["auto"] / max(alone)
    what = f"with {cores} cores, both together are {GAIN} times as fast as the better one"
    yield check(what, ratio >= GAIN, must=False, ratio=round(ratio, 3), cores=cores)
