"""C2: JPEG and raw samples mixed in batches, in any proportion: GPU batches against CPU batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.gpu.bench import Bench, Row, check
from benchmarks.gpu.datasets import KINDS, STD, batches, loader_of, stored

__all__ = ["run"]

#: tolerated grey levels between a batch made on the GPU and on the CPU: decoders differ, and rounding
MEAN, MAX = 0.15, 8
#: mean, after operations that amplify small differences (thresholds, histograms)
FEW = 1.0
BATCH, SAMPLES = 64, 500


def run(bench: Bench) -> Iterator[Row]:
    """Compare whole epochs, output by output."""
    files, small = bench.photos(), bench.gpu.rehearsal
    samples, size, side = (30, 8, 32) if small else (SAMPLES, BATCH, 224)
    for kind in (kind for kind in KINDS if kind != "tenth" or not small):
        path = stored(bench, kind, files, samples)
        # Fewer in a rehearsal: each one compiles another kernel.
        for output in ("uint8", "float16") if small else ("uint8", "float32", "float16"):
            for batch_size in (size, size // 2 + 1) if output == "uint8" else (size,):
                what = f"{kind}, {output}, batch {batch_size}"
                settings = {"output": output, "side": side}
                found = batches(bench.gpu, loader_of(path, batch_size, device=bench.gpu.name, **settings))
                wanted = batches(bench.gpu, loader_of(path, batch_size, device="cpu", **settings))
                yield from _compared(what, found, wanted, output)
    path, settings = stored(bench, "half", files, samples), {"output": "uint8", "side": side}
    shared = loader_of(path, size, device=bench.gpu.name, cpu_share=0.5, **settings)
    wanted = batches(bench.gpu, loader_of(path, size, device="cpu", **settings))
    yield from _compared("half, cpu_share 0.5", batches(bench.gpu, shared), wanted, "uint8")
    yield from _with_more_launches(bench, stored(bench, "half", files, samples), size, side)


def _with_more_launches(bench: Bench, path: Any, size: int, side: int) -> Iterator[Row]:
    """Compare pipelines of several launches: image means, blur, warps, sharpness, histograms."""
    from ffcv_gpu import transforms

    pipelines: dict[str, Any] = {
        "contrast": lambda: [transforms.RandomContrast(0.5)],
        "blur": lambda: [transforms.GaussianBlur(0.5)],
        "rotate": lambda: [transforms.Rotate()],
        "RandAugment": lambda: [transforms.RandAugment()],
        "poison": lambda: [_poison(side)],
    }
    for name, steps in pipelines.items():
        on_gpu, on_cpu = (
            batches(bench.gpu, loader_of(path, size, device=device, side=side, steps=steps()))
            for device in (bench.gpu.name, "cpu")
        )
        apart = [np.abs(a[0].astype(np.int64) - b[0]) for a, b in zip(on_gpu, on_cpu, strict=True)]
        mean = float(max(each.mean() for each in apart))
        yield check(f"{name}: images are the CPU's", mean <= FEW, worst_batch_mean=round(mean, 4))


def _poison(side: int) -> Any:
    from ffcv_gpu.transforms import Poison

    mask = np.random.default_rng(0).integers(0, 256, (side, side, 3))
    return Poison(mask, np.full((side, side), 0.5), range(0, SAMPLES, 2))


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
