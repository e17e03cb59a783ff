"""C1: pixels of ``decode_jpegs`` on the GPU against libjpeg-turbo's, by subsampling and unusual kinds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.gpu.bench import Bench, Row, check, fact
from benchmarks.gpu.pictures import difference, greatest, pixels
from benchmarks.gpu.variants import variants

__all__ = ["MAX", "MEAN", "SHARE", "run"]

#: limits against libjpeg-turbo with interpolated chroma; SHARE: of values that differ by more than 2
MEAN, MAX, SHARE = 0.15, 6, 0.001
SIZES = ((1, 1), (7, 7), (8, 8), (17, 33), (64, 64), (1200, 1600))


def run(bench: Bench) -> Iterator[Row]:
    """Decode every kind in one call, then all photographs."""
    from ffcv_gpu import decode_jpegs

    files = list(variants(bench.images(4 if not bench.gpu.rehearsal else 2), SIZES))
    images, status = decode_jpegs([file.data for file in files], device=bench.gpu.name)
    for kind in dict.fromkeys(file.kind for file in files):
        chosen = [i for i, file in enumerate(files) if file.kind == kind]
        good = [i for i in chosen if status[i] == 0]
        apart = [difference([bench.gpu.host(images[i])], [found]) for i in good
                 if (found := pixels(files[i].data)) is not None]  # fmt: skip
        worst = greatest(apart)
        if kind == "cmyk":  # libjpeg does not convert these to RGB; the tests compare with Pillow
            yield fact("cmyk", decoded=len(good), of=len(chosen))
            continue
        yield check(f"{kind}: all are decoded", len(good) == len(chosen), decoded=len(good), of=len(chosen))
        near = bool(apart) and worst["max"] <= MAX
        if kind != "size":  # in a tiny image, one value is a large share
            near = near and worst["mean"] <= MEAN and worst["share_over_2"] <= SHARE
        yield check(f"{kind}: as libjpeg-turbo", near, **worst)
    yield from _natural(bench)


def _natural(bench: Bench) -> Iterator[Row]:
    from ffcv_gpu import decode_jpegs

    files = bench.photos()
    images, status = decode_jpegs(files, device=bench.gpu.name)
    apart = []
    for image, file in zip(images, files, strict=True):
        wanted = pixels(file)
        if image is not None and wanted is not None:
            apart.append(difference([bench.gpu.host(image)], [wanted]))
    yield check("photographs: all are decoded", not np.any(status), bad=int(np.count_nonzero(status)))
    worst = greatest(apart)
    near = worst["mean"] <= MEAN and worst["max"] <= MAX and worst["share_over_2"] <= SHARE
    yield check(f"{len(apart)} photographs: as libjpeg-turbo", near, **worst)
