"""E17: the report of ``ffcv-gpu doctor`` on this machine, and that it finds the GPU."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.gpu.bench import Bench, Row, check, fact
from benchmarks.gpu.datasets import stored

__all__ = ["run"]


def run(bench: Bench) -> Iterator[Row]:
    """Examine a file of JPEGs, and one with raw images among them; yield the report, one row per line."""
    from ffcv_gpu.doctor import Setup, examine, report

    setup = Setup(bench.scale.batch, side=32 if bench.gpu.rehearsal else 224)
    name = bench.gpu.name  # makes a rehearsal's GPU visible
    for kind in ("jpeg", "half") if not bench.gpu.rehearsal else ("half",):
        path = stored(bench, kind, bench.photos(), bench.scale.samples)
        diagnosis = examine(path, setup)
        for line in filter(None, report(diagnosis).splitlines()):
            yield fact(f"{kind}: {line}")
        gpu = diagnosis.found.gpu
        yield check(f"{kind}: {name} is measured", gpu is not None, bottleneck=diagnosis.bottleneck)
