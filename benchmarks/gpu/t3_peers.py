"""T3: other libraries on the GPU beside ours, the same images in the same process, a part a library."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import simplejpeg

from benchmarks.gpu.bench import Bench, check, fact
from benchmarks.gpu.datasets import stored
from benchmarks.gpu.peers import BATCH, PIXELS, Made
from benchmarks.gpu.speed import measured, totals
from benchmarks.gpu.t1_decode import public_call
from benchmarks.gpu.t2_loader import loader_rows

__all__ = ["run"]

Row = dict[str, Any]
#: mean difference in grey levels from libjpeg-turbo
TOLERANCE = 2.0
WORDS = 300


def run(bench: Bench) -> Iterator[Row]:
    """Measure what is installed here, and ours in the same kind of work; then the ratios."""
    files = bench.photos()
    pictures = bench.rotation(bench.scale.batch, files=files)
    lists = [list(p.files) for p in pictures]
    found: dict[str, dict[str, float]] = {PIXELS: {}, BATCH: {}}
    for name, make in bench.gpu.peers(bench.part).items():
        try:
            made = make(lists)
        except (ImportError, OSError, RuntimeError) as error:
            yield fact(f"{name} is not to be had", words=str(error)[:WORDS])
            continue
        yield from _checked(name, made, lists[0][0])
        for row in measured(bench, name, _turn(bench, made, pictures), kind=made.kind, **made.settings):
            if row["row"] == "result":
                found[made.kind][name] = row["images_per_second"]
            yield row
    for kind, rates in found.items():
        if rates:
            yield from _beside(bench, kind, rates, files, pictures)


def _turn(bench: Bench, made: Made, pictures: Sequence[Any]) -> Any:
    def turn() -> dict[str, float]:
        made.run()
        bench.gpu.synchronize()
        return totals(pictures)

    return turn


def _checked(name: str, made: Made, file: bytes) -> Iterator[Row]:
    """Compare the first image with libjpeg-turbo's."""
    if made.kind == PIXELS:
        image, wanted = made.first(), simplejpeg.decode_jpeg(file, "RGB")
        same = image.shape == wanted.shape
        off = float(np.abs(image.astype(int) - wanted).mean()) if same else float("inf")
        yield check(f"{name}: pixels as libjpeg-turbo's", off <= TOLERANCE, must=False,
                    mean_difference=round(off, 3) if same else list(image.shape))  # fmt: skip


def _beside(
    bench: Bench, kind: str, rates: dict[str, float], files: list[bytes], pictures: Sequence[Any]
) -> Iterator[Row]:
    ours = 0.0
    for row in public_call(bench, pictures) if kind == PIXELS else _loader(bench, files):
        if row["row"] == "result":
            ours = row["images_per_second"]
        yield row
    for name, rate in rates.items():
        yield fact(f"ours / {name}", peer=name, kind=kind, ratio=round(ours / rate, 3))


def _loader(bench: Bench, files: list[bytes]) -> Iterator[Row]:
    path = stored(bench, "jpeg", files, bench.scale.samples)
    yield from loader_rows(bench, path, "jpeg, all cores", len(os.sched_getaffinity(0)))
