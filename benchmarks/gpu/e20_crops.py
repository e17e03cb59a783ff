"""E20: JPEGs with an index for crops: decoded whole, or only what the crops need, on the GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.gpu.bench import Bench, Row, check, collected
from benchmarks.gpu.datasets import batches, loader_of, stored
from benchmarks.gpu.t2_loader import loader_rows

__all__ = ["gain", "run"]

#: cases: what is read, and how it is decoded
PLAIN, WHOLE, PARTS = "no index", "index, whole images", "index, parts"
#: largest difference in levels: the GPU's engines and its SMs differ by so much
TOLERANCE = 3
#: decoding of parts is the default on GPUs (`gpu_fill.CROPS_ON_GPU`) because it is so many times as fast
GAIN = 1.1


def run(bench: Bench) -> Iterator[Row]:
    """Compare the pixels; measure; check whether it is worth it."""
    files, samples, workers = bench.photos(), bench.scale.samples, len(os.sched_getaffinity(0))
    plain, indexed = (stored(bench, kind, files, samples) for kind in ("jpeg", "indexed"))
    yield from _right(bench, plain, indexed)
    found: list[Row] = []
    for case, path in ((PLAIN, plain), (WHOLE, indexed), (PARTS, indexed)):
        with crops_on_gpu(case == PARTS):
            yield from collected(loader_rows(bench, path, case, workers), found)
    yield from gain(found)


def _right(bench: Bench, plain: Path, indexed: Path) -> Iterator[Row]:
    """Compare the batches of both files, decoded whole and in part."""
    side = 32 if bench.gpu.rehearsal else 224
    settings = {"device": bench.gpu.name, "side": side, "indices": np.arange(min(256, bench.scale.samples))}
    pixels = []
    for path, on in ((plain, False), (indexed, True)):
        with crops_on_gpu(on):
            made = batches(bench.gpu, loader_of(path, bench.scale.batch, **settings))
        pixels.append(np.concatenate([images for images, *_ in made]).astype(np.int16))
    largest = int(np.abs(pixels[0] - pixels[1]).max())
    yield check("parts decoded on the GPU have the pixels of whole images", largest <= TOLERANCE, must=False,
                images=len(pixels[0]), largest=largest)  # fmt: skip


@contextmanager
def crops_on_gpu(on: bool) -> Iterator[None]:
    """Let loaders cut JPEGs for the GPU's decoder, or not."""
    from ffcv_gpu.loader import gpu_fill

    before, gpu_fill.CROPS_ON_GPU = gpu_fill.CROPS_ON_GPU, on
    try:
        yield
    finally:
        gpu_fill.CROPS_ON_GPU = before


def gain(found: Sequence[Row]) -> Iterator[Row]:
    """Compare the speed of parts with that of images without an index; `found` has results by case."""
    rates = {row["case"].removeprefix("loader, "): float(row["images_per_second"]) for row in found}
    if PLAIN in rates and PARTS in rates:
        ratio = rates[PARTS] / rates[PLAIN]
        yield check(f"decoding only parts is {GAIN} times as fast", ratio >= GAIN, must=False,
                    ratio=round(ratio, 3))  # fmt: skip
