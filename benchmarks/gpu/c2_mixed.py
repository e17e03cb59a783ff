"""C2: JPEG and raw samples in one batch, in any share: the batches of the GPU beside those of the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.gpu.bench import Bench, check
from benchmarks.gpu.datasets import KINDS, STD, batches, loader_of, stored

__all__ = ["run"]

Row = dict[str, Any]
#: grey levels between the same batch made on GPU and CPU: the decoders' difference, and rounding
MEAN, MAX = 0.15, 8
BATCH, SAMPLES = 64, 500


def run(bench: Bench) -> Iterator[Row]:
    """Compare whole epochs, output by output."""
    files, small = bench.photos(), bench.gpu.rehearsal
    samples, size, side = (30, 8, 32) if small else (SAMPLES, BATCH, 224)
    for kind in KINDS:
        path = stored(bench, kind, files, samples)
        # Few in a rehearsal: each is another compilation.
        for output in ("uint8", "float16") if small else ("uint8", "float32", "float16"):
            for batch_size in (size, size // 2 + 1) if output == "uint8" else (size,):
                what = f"{kind}, {output}, batch {batch_size}"
                settings = {"output": output, "side": side}
                found = batches(bench.gpu, loader_of(path, batch_size, device=bench.gpu.name, **settings))
                wanted = batches(bench.gpu, loader_of(path, batch_size, device="cpu", **settings))
                yield from _compared(what, found, wanted, output)


def _compared(what: str, found: list[Any], wanted: list[Any], output: str) -> Iterator[Row]:
    shapes = [[part.shape for part in batch] for batch in found]
    same = shapes == [[part.shape for part in batch] for batch in wanted]
    yield check(f"{what}: the same batches", same, batches=len(found))
    if not same:
        return
    rest = all(np.array_equal(a, b) for x, y in zip(found, wanted, strict=True)
               for a, b in zip(x[1:], y[1:], strict=True))  # fmt: skip
    yield check(f"{what}: labels and arrays are equal", rest)
    scale = 1.0 if output == "uint8" else STD[:, None, None]
    means, most = [], 0.0
    for (image, *_), (other, *_) in zip(found, wanted, strict=True):
        apart = np.abs(image.astype(np.float64) - other) * scale
        means.append(apart.mean(axis=(1, 2, 3)))
        most = max(most, float(apart.max()))
    mean = float(np.concatenate(means).max())
    yield check(f"{what}: images are the CPU's", mean <= MEAN and most <= MAX,
                worst_image_mean=round(mean, 4), max=round(most, 2))  # fmt: skip
