"""``kernels``: the fused kernel on one core, beside OpenCV and beside a copy of the same bytes.

What the loader does after decoding: random-resized crop, resample by area to a square, mirror every other
image, and write grey levels, or numbers normalised by a table. OpenCV does the same in the calls that it has
for it. The bound is the memory's: a copy that reads and writes together as many bytes as the kernel does (the
crop's pixels, and the output's). Each passes over all the images in turn, so that none finds them in a cache;
only the thread's own time counts, and compilers have run. Its equivalent on a GPU is E13 of ``gpu``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.harness import interleaved
from benchmarks.options import Bench, positive
from benchmarks.photos import find_photos, read_photo
from benchmarks.record import Metric, Record, Row
from benchmarks.workers import pipelines
from ffcv_gpu.crops import CROP_DRAWS, random_resized_crop
from ffcv_gpu.kernels.codes import RESAMPLE_ANTIALIAS, RESAMPLE_AREA, scratch_size

__all__ = ["BENCH"]

METRICS = [
    Metric("CPU per image", "ms", "cpu_seconds", over="images", scale=1e3, ratio=True),
    Metric("memory traffic", "GB/s", "moved_bytes", over="cpu_seconds", scale=1e-9),
    Metric("of the copy bound", "%", "bound_seconds", over="cpu_seconds", scale=100),
]
MEAN, STD = np.array(pipelines.MEAN), np.array(pipelines.STD)

#: works on image n; returns what came out, in its place in a batch
Work = Callable[[int], npt.NDArray[Any]]


@dataclass(frozen=True)
class Kind:
    """One row: what it makes, who makes it, and what is done with the values."""

    name: str
    output: str
    dtype: str
    by: str
    planar: bool = False
    resample: int = RESAMPLE_AREA


#: Rows of one output are compared with OpenCV's of it, where it has one: it cannot write float16.
KINDS = (
    Kind("cv2: resize, flip", "uint8 NHWC", "uint8", "opencv"),
    Kind("kernel", "uint8 NHWC", "uint8", "kernel"),
    Kind("kernel, antialias", "uint8 NHWC", "uint8", "kernel", resample=RESAMPLE_ANTIALIAS),
    Kind("cv2: resize, flip, LUT", "float32 NHWC, normalised", "float32", "opencv"),
    Kind("kernel", "float32 NHWC, normalised", "float32", "kernel"),
    Kind("cv2: resize, flip, LUT, split", "float32 NCHW, normalised", "float32", "opencv", planar=True),
    Kind("kernel", "float32 NCHW, normalised", "float32", "kernel", planar=True),
    Kind("kernel", "float16 NHWC, normalised", "float16", "kernel"),
    Kind("kernel", "float16 NCHW, normalised", "float16", "kernel", planar=True),
)
DTYPES = ("uint8", "float16", "float32")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what this benchmark takes."""
    parser.add_argument("--images", type=positive, default=150, help="photographs to take")
    parser.add_argument("--side", type=positive, default=224, help="of the output, in pixels")
    parser.add_argument("--longest", type=positive, default=500, help="shrink photographs to this first")


def run(arguments: argparse.Namespace) -> Record:
    """Measure every image with each contender, in turns; sum up by what happens to its size."""
    photos = find_photos(arguments.data, arguments.work)
    images = [read(path, arguments.longest) for path in photos.paths[: arguments.images]]
    boxes = crops(images)
    work = contenders(images, boxes, arguments.side)
    seconds = {key: np.zeros((arguments.rounds, len(images))) for key in work}
    for do in work.values():
        one_turn(do, len(images))  # compilers, and memory that is touched for the first time
    for number, key in interleaved(list(work), arguments.rounds):
        seconds[key][number] = one_turn(work[key], len(images))
    moved = {dtype: moved_bytes(boxes, arguments.side, dtype) for dtype in DTYPES}
    rows = [
        row for case, chosen in cases(boxes, arguments.side) for row in sum_up(case, chosen, seconds, moved)
    ]
    settings = {"side": arguments.side, "longest": arguments.longest, "photos": photos.facts(), "cores": 1}
    note = (
        "bound: a copy, by numpy, that reads and writes half of those bytes each, from and to the same places"
    )
    return Record("kernels", settings, METRICS, rows, [note])


def one_turn(do: Work, count: int) -> list[float]:
    """The thread's seconds for every image."""
    found = []
    for n in range(count):
        begin = time.thread_time()
        do(n)
        found.append(time.thread_time() - begin)
    return found


def moved_bytes(boxes: npt.NDArray[np.int32], side: int, dtype: str) -> npt.NDArray[np.int64]:
    """Bytes of each image that are read and written: the crop's, and those of the output."""
    crop = boxes[:, 2:].astype(np.int64).prod(axis=1) * 3
    return np.asarray(crop + side * side * 3 * np.dtype(dtype).itemsize, np.int64)


def read(path: Path, longest: int) -> npt.NDArray[np.uint8]:
    """Decode a photograph, no larger than `longest`."""
    image = read_photo(path)
    scale = min(1.0, longest / max(image.shape[:2]))
    size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
    return np.ascontiguousarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def crops(images: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.int32]:
    """Return one box an image, as torchvision's RandomResizedCrop draws them by default."""
    draws = np.random.default_rng(0).random((len(images), CROP_DRAWS))
    heights, widths = (np.array([image.shape[axis] for image in images]) for axis in (0, 1))
    return random_resized_crop(draws, heights, widths, (0.08, 1.0), (3 / 4, 4 / 3))


def cases(boxes: npt.NDArray[np.int32], side: int) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    """Which images shrink along both axes, which grow, which do one of each."""
    shrink, grow = (boxes[:, 2:] >= side).all(axis=1), (boxes[:, 2:] < side).all(axis=1)
    found = [("both axes shrink", shrink), ("both axes grow", grow), ("one of each", ~shrink & ~grow)]
    return [(name, chosen) for name, chosen in found if chosen.any()]


def sum_up(
    case: str,
    chosen: npt.NDArray[np.bool_],
    seconds: dict[Any, npt.NDArray[Any]],
    moved: dict[str, npt.NDArray[np.int64]],
) -> list[Row]:
    """One row a contender; the copies are the bounds of the others, and rows themselves."""
    count, rows = int(chosen.sum()), []

    def repeats(key: Any, dtype: str) -> list[dict[str, float]]:
        every = zip(seconds[key][:, chosen].sum(axis=1), seconds[dtype][:, chosen].sum(axis=1), strict=True)
        return [{"cpu_seconds": float(own), "bound_seconds": float(bound), "images": count,
                 "moved_bytes": int(moved[dtype][chosen].sum())} for own, bound in every]  # fmt: skip

    for kind in KINDS:
        settings = {"output": kind.output, "by": kind.by, "case": case}
        rows.append(Row(f"{case} ({count} images)", f"{kind.output}: {kind.name}", settings,
                        repeats=repeats(kind, kind.dtype)))  # fmt: skip
        peer = next((row for row in rows if row.settings == settings | {"by": "opencv"}), None)
        rows[-1].sum_up(METRICS, peer)
    for dtype in DTYPES:
        settings = {"output": dtype, "by": "copy", "case": case}
        rows.append(Row(f"{case} ({count} images)", f"{dtype}: a copy of as many bytes", settings,
                        repeats=repeats(dtype, dtype)))  # fmt: skip
        rows[-1].sum_up(METRICS, None)
    return rows


def contenders(
    images: list[npt.NDArray[np.uint8]], boxes: npt.NDArray[np.int32], side: int
) -> dict[Any, Work]:
    """Return what works on image n: by `Kind`, and by dtype the copies that bound them."""
    cv2.setNumThreads(1)
    launch = Launches(images, boxes, side)
    found: dict[Any, Work] = {
        kind: launch.work(kind) if kind.by == "kernel" else by_opencv(images, boxes, side, kind)
        for kind in KINDS
    }
    return found | {dtype: launch.copy(moved_bytes(boxes, side, dtype)) for dtype in DTYPES}


def values_of(dtype: str) -> npt.NDArray[Any]:
    """(3, 256): what each grey level of each channel becomes."""
    if dtype == "uint8":
        return np.tile(np.arange(256, dtype=np.uint8), (3, 1))
    return np.asarray((np.arange(256) - MEAN[:, None]) / STD[:, None], dtype)


def by_opencv(
    images: list[npt.NDArray[np.uint8]], boxes: npt.NDArray[np.int32], side: int, kind: Kind
) -> Work:
    """Crop, resize, mirror every other image, normalise, into memory that is there already."""
    resized, mirrored = (np.empty((side, side, 3), np.uint8) for _ in range(2))
    normalised = np.empty((side, side, 3), np.float32)
    table = np.ascontiguousarray(values_of("float32").T[None])
    out = np.ones((len(images), 3, side, side) if kind.planar else (len(images), side, side, 3), kind.dtype)

    def work(n: int) -> npt.NDArray[Any]:
        y, x, h, w = boxes[n]
        last = out[n] if kind.dtype == "uint8" else resized
        target = resized if n % 2 else last
        cv2.resize(images[n][y : y + h, x : x + w], (side, side), target, interpolation=cv2.INTER_AREA)
        if n % 2:
            target = last if kind.dtype == "uint8" else mirrored
            cv2.flip(resized, 1, target)
        if kind.dtype != "uint8":
            cv2.LUT(target, table, normalised if kind.planar else out[n])
        if kind.planar:
            cv2.split(normalised, list(out[n]))
        return out[n]

    return work


class Launches:
    """One launch of the kernel an image, from one arena to its place in a batch."""

    def __init__(self, images: list[npt.NDArray[np.uint8]], boxes: npt.NDArray[np.int32], side: int) -> None:
        sizes = np.array([image.size for image in images])
        self._arena = np.concatenate([image.ravel() for image in images])
        self._arena.flags.writeable = False
        self._table = np.zeros((len(images), 8), np.int64)
        self._table[:, 1] = np.cumsum(sizes) - sizes
        self._table[:, 4] = [3 * image.shape[1] for image in images]
        self._table[:, 6:] = [image.shape[:2] for image in images]
        self._boxes, self._side = boxes, side
        self._geometry = np.tile(np.array([1, 0, 1, 0], np.int32), (len(images), 1))
        self._geometry[1::2, 2:] = -1, side - 1
        tallest, widest = boxes[:, 2:].max(axis=0).tolist()
        self._scratch = np.empty(scratch_size(tallest, widest, side, side, 3), np.float32)

    def work(self, kind: Kind) -> Work:
        """Return what composes image n as `kind` says."""
        from ffcv_gpu.kernels.shell_cpu import compose

        side, count = self._side, len(self._boxes)
        values = values_of(kind.dtype)
        bits = {"uint8": np.uint8, "float16": np.uint16, "float32": np.uint32}[kind.dtype]
        pixel = (side, 1, side * side) if kind.planar else (side * 3, 3, 1)
        strides = np.array([side * side * 3, *pixel], np.int64)
        out = np.ones(count * side * side * 3, bits)  # ones: memory that is really there
        nothing = np.zeros((count, 0), np.float32), np.zeros((0, 2), np.int32), np.zeros((0, 4), np.uint32)
        before = (self._arena, self._arena, self._table, self._boxes, self._geometry, *nothing, 0,
                  values.view(bits), out)  # fmt: skip

        shape = (count, 3, side, side) if kind.planar else (count, side, side, 3)
        batch = out.view(kind.dtype).reshape(shape)

        def work(n: int) -> npt.NDArray[Any]:
            compose(*before, strides, side, side, kind.resample, self._scratch, n, n + 1)
            return batch[n]

        return work

    def copy(self, moved: npt.NDArray[np.int64]) -> Work:
        """Return what copies half of the bytes that image n's kernel reads and writes."""
        halves = moved // 2
        out = np.ones(int(halves.max()) * len(halves), np.uint8).reshape(len(halves), -1)
        starts = np.minimum(self._table[:, 1], self._arena.size - halves)

        def work(n: int) -> npt.NDArray[Any]:
            np.copyto(out[n, : halves[n]], self._arena[starts[n] : starts[n] + halves[n]])
            return out[n]

        return work


BENCH = Bench(
    "kernels", "crop, resize, flip, normalise on one core, beside OpenCV", add_options, run, rounds=9
)
