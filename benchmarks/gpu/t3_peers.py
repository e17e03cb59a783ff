"""T3: other libraries on the GPU against ffcv_gpu, on the same images in one process; a part per library."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import simplejpeg

from benchmarks.gpu.bench import Bench, Row, best, check, collected, fact, timed
from benchmarks.gpu.datasets import stored
from benchmarks.gpu.e10_cores import on_cores
from benchmarks.gpu.peers import BATCH, PIXELS, Made
from benchmarks.gpu.speed import totals
from benchmarks.gpu.t1_decode import public_call
from benchmarks.gpu.t2_loader import SHARED, loader_rows

__all__ = ["run"]

#: tolerated mean difference from libjpeg-turbo, in grey levels
TOLERANCE = 2.0
WORDS = 300


def run(bench: Bench) -> Iterator[Row]:
    """Measure a library, and ffcv_gpu doing the same work; a part may be "X on N cores"."""
    part, _, few = bench.part.partition(" on ")
    usable = sorted(os.sched_getaffinity(0))
    cores = usable[: int(few.split()[0]) if few else None]
    with on_cores(cores):
        yield from _measured(bench, part, f", {len(cores)} cores" if few else "")


def _measured(bench: Bench, part: str, where: str) -> Iterator[Row]:
    """Measure the peers of a part, then ffcv_gpu, then yield the ratios."""
    files = bench.photos()
    pictures = bench.rotation(bench.scale.batch, files=files)
    lists = [list(p.files) for p in pictures]
    found: dict[str, list[Row]] = {PIXELS: [], BATCH: []}
    for peer, make in bench.gpu.peers(part).items():
        name = peer + where
        try:
            made = make(lists)
        except (ImportError, OSError, RuntimeError) as error:
            yield fact(f"{name} is not available", words=str(error)[:WORDS])
            continue
        yield from _checked(name, made, lists[0][0])
        rows = timed(bench, name, _turn(bench, made, pictures), kind=made.kind, **made.settings)
        yield from collected(rows, found[made.kind])
    for kind, theirs in found.items():
        if theirs:
            ours: list[Row] = []
            rows = public_call(bench, pictures) if kind == PIXELS else _loader(bench, files, where)
            yield from collected(rows, ours)
            for row in theirs if ours else ():
                ratio = round(best(ours) / row["images_per_second"], 3)
                yield fact(f"ours / {row['case']}", peer=row["case"], kind=kind, ratio=ratio)


def _turn(bench: Bench, made: Made, pictures: Sequence[Any]) -> Any:
    def turn() -> dict[str, float]:
        for _ in made.batches():
            pass
        bench.gpu.synchronize()
        return totals(pictures, made.times)

    return turn


def _checked(name: str, made: Made, file: bytes) -> Iterator[Row]:
    """Compare the first image with libjpeg-turbo's."""
    if made.first is not None:
        image, wanted = made.first(), simplejpeg.decode_jpeg(file, "RGB")
        same = image.shape == wanted.shape
        off = float(np.abs(image.astype(int) - wanted).mean()) if same else float("inf")
        yield check(f"{name}: pixels as libjpeg-turbo's", off <= TOLERANCE, must=False,
                    mean_difference=round(off, 3) if same else list(image.shape))  # fmt: skip


def _loader(bench: Bench, files: list[bytes], where: str) -> Iterator[Row]:
    path = stored(bench, "jpeg", files, bench.scale.samples)
    case, cores = f"jpeg{where or ', all cores'}", len(os.sched_getaffinity(0))
    yield from loader_rows(bench, path, case, cores)
    # as in DALI's pipeline, whose CPU threads help to decode what is not left to the engines
    yield from loader_rows(bench, path, f"{case}{SHARED}", cores, cpu_share="auto")
