"""E3: speed of the engines in batches, by batch size, format, memory, order and states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.gpu.bench import Bench, Row, fact
from benchmarks.gpu.decoders import INTERPOLATE, Handle, Refusal
from benchmarks.gpu.pictures import Pictures
from benchmarks.gpu.speed import by_batches, lanes_of
from ffcv_gpu.native.nvjpeg_types import NVJPEG_FLAGS_HW_DECODE_NO_PIPELINE as NO_PIPELINE

__all__ = ["fitted", "run"]

BACKEND = "hardware"
QUALITIES, KINDS = (75, 95), ("420", "444")
RESERVED = (500, 500)


def run(bench: Bench) -> Iterator[Row]:
    """Measure, most decisive cases first."""
    try:
        handle = Handle(bench.gpu.library(), BACKEND, INTERPOLATE)
    except Refusal as refusal:
        yield fact("no engine", words=str(refusal))
        return
    engines, cores = handle.engines()
    yield fact("engines", engines=engines, cores=cores)
    files = bench.photos()
    for size in bench.scale.batches:
        pictures = bench.rotation(size, files=files)
        yield from by_batches(bench, f"natural, batch {size}", lanes_of(bench, handle, pictures), batch=size)
    yield from _ways(bench, handle, files)
    yield from _sets(bench, handle)


def _ways(bench: Bench, handle: Handle, files: Sequence[bytes]) -> Iterator[Row]:
    """Change one thing at a time, with one batch size."""
    size, library = bench.scale.batch, bench.gpu.library()
    pictures = bench.rotation(size, files=files)
    plain = Handle(library, BACKEND, 0)
    for name, owner, settings in (
        ("as above", handle, {}),
        ("yuv", handle, {"output": "yuv"}),
        ("two states, one thread", handle, {"count": 2}),
        ("rgbi, no interpolation", plain, {}),
        ("yuv, no interpolation", plain, {"output": "yuv"}),
        ("y", handle, {"output": "y"}),
        ("rgb planes", handle, {"output": "rgb"}),
        ("no pipeline", Handle(library, BACKEND, INTERPOLATE | NO_PIPELINE), {}),
        ("sorted", handle, {"in_order": True}),
        ("initialised each time", handle, {"initialize": True}),
        ("memory reserved", handle, {"reserve": RESERVED}),
        ("three states, one thread", handle, {"count": 3}),
    ):
        yield from by_batches(bench, f"{name}, batch {size}", lanes_of(bench, owner, pictures, **settings))
    yield from by_batches(
        bench, f"two threads, batch {size}", lanes_of(bench, handle, pictures, count=2), threads=True
    )
    pageable = bench.rotation(size, files=files, pinned=False)
    yield from by_batches(bench, f"pageable input, batch {size}", lanes_of(bench, handle, pageable))


def _sets(bench: Bench, handle: Handle) -> Iterator[Row]:
    """Measure sets of one size, subsampling and quality; then fit the cost per image by pixels and bytes."""
    points: list[tuple[float, float, float]] = []
    for height, width, count in bench.scale.sides:
        for kind in KINDS:
            for quality in QUALITIES:
                files = bench.made(height, width, count, kind, quality)
                pictures = bench.rotation(count, files=files, sets=2)
                case = f"{width} x {height}, {kind}, q{quality}"
                for row in by_batches(bench, case, lanes_of(bench, handle, pictures), batch=count):
                    if row["row"] == "result":
                        points.append((1000 / row["images_per_second"], *_mean(pictures)))
                    yield row
    yield fitted(points)


def _mean(pictures: Sequence[Pictures]) -> tuple[float, float]:
    count = sum(p.count for p in pictures)
    return tuple(sum(p.facts[key] for p in pictures) / count for key in ("megapixels", "megabytes"))  # type: ignore[return-value]


def fitted(points: Sequence[tuple[float, float, float]]) -> Row:
    """Fit milliseconds = a + b megapixels + c megabytes to (milliseconds, megapixels, megabytes)."""
    if len(points) < 4:
        return fact("milliseconds per image", points=len(points))
    table = np.array(points)
    inputs = np.column_stack([np.ones(len(table)), table[:, 1:]])
    found, *_ = np.linalg.lstsq(inputs, table[:, 0], rcond=None)
    left = table[:, 0] - inputs @ found
    return fact("milliseconds per image = constant + by megapixel + by megabyte", constant=float(found[0]),
                by_megapixel=float(found[1]), by_megabyte=float(found[2]),
                unexplained=float(np.abs(left).max()))  # fmt: skip
