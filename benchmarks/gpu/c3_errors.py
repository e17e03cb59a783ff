"""C3: a bad image affects no other image, in ``decode_jpegs`` and in a loader with a damaged file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.gpu.bench import Bench, Row, check, fact, still_works
from benchmarks.gpu.c1_parity import MAX, MEAN
from benchmarks.gpu.datasets import batches, loader_of, stored
from benchmarks.gpu.pictures import difference, greatest, pixels
from benchmarks.gpu.variants import DAMAGES, damaged, encode
from ffcv_gpu.errors import FfcvGpuError
from ffcv_gpu.format import open_beton

__all__ = ["run"]

#: undecodable; a truncated or corrupted scan still decodes to something, with libjpeg as well
HOPELESS = ("header cut", "png")
#: unusual, but not damaged
WHOLE = ("progressive", "411")
COUNT, EVERY = 96, 9


def run(bench: Bench) -> Iterator[Row]:
    """Decode batches with bad images of every kind among good ones."""
    from ffcv_gpu import decode_jpegs

    images = bench.images(16)
    good = [encode(images[i % len(images)], ("420", "444", "422")[i % 3]) for i in range(COUNT)]
    for kind in DAMAGES:
        files = list(good)
        bad = list(range(EVERY // 2, COUNT, EVERY))
        for place in bad:
            files[place] = damaged(good[place], images[place % len(images)], kind, seed=place)
        decoded, status = decode_jpegs(files, device=bench.gpu.name)
        others = [i for i in range(COUNT) if i not in bad]
        yield check(f"{kind}: the others are decoded", not np.any(np.asarray(status)[others]))
        worst = _worst(bench, decoded, files, others)
        near = worst["mean"] <= MEAN and worst["max"] <= MAX
        yield check(f"{kind}: the others are right", near, **worst)
        told = np.asarray(status)[bad]
        if kind in HOPELESS:
            yield check(f"{kind}: each has an error status and no image", bool((told != 0).all()) and
                        all(decoded[i] is None for i in bad))  # fmt: skip
        elif kind in WHOLE:
            worst = _worst(bench, decoded, files, bad)
            yield check(
                f"{kind}: decoded by another route", not told.any() and worst["mean"] <= MEAN, **worst
            )
        else:
            yield fact(f"{kind}: statuses", statuses=np.unique(told).tolist())
    yield from _damaged_file(bench)
    yield still_works(bench.gpu)


def _worst(bench: Bench, decoded: Any, files: list[bytes], which: list[int]) -> dict[str, float]:
    apart = [
        difference([bench.gpu.host(decoded[i])] if decoded[i] is not None else [], [pixels(files[i])])
        for i in which
    ]
    return greatest(apart)


def _damaged_file(bench: Bench) -> Iterator[Row]:
    """Flip bytes of one sample: the loader must name it, and load the other samples."""
    count, bad = (30, 13) if bench.gpu.rehearsal else (200, 137)
    path = stored(bench, "jpeg", bench.photos(), count)
    broken = path.with_suffix(".damaged.beton")
    shutil.copyfile(path, broken)
    beton = open_beton(path)
    start = int(beton.column("image")["data_ptr"][bad])
    with open(broken, "r+b") as file:
        file.seek(start + 200)
        data = file.read(8)
        file.seek(start + 200)
        file.write(bytes(value ^ 0x55 for value in data))
    said = ""
    try:
        batches(bench.gpu, loader_of(broken, 8, device=bench.gpu.name, side=32, random=False))
    except FfcvGpuError as error:
        said = "\n".join([str(error), *getattr(error, "__notes__", ())])
    yield check(
        "a damaged sample is an error that names it",
        str(bad) in said,
        words=said[:300].replace(str(path.parent), ""),
    )
    rest = [i for i in range(count) if i != bad]
    found = batches(
        bench.gpu, loader_of(broken, 8, device=bench.gpu.name, side=32, random=False, indices=rest)
    )
    labels = np.concatenate([batch[1] for batch in found])
    yield check("the other samples of that file are loaded", labels.tolist() == rest)
