"""``kernels``: the fused kernel on one core, compared with OpenCV and with a copy of as many bytes.

What the loader does after decoding: random-resized crop, resample by area to a square, flip every other
image, and write uint8 values, or values normalised by a table. OpenCV does the same with several calls. The
bound is memory bandwidth: a copy that reads and writes in total as many bytes as the kernel (the pixels of
the crop and of the output). Each contender passes over all images in turn, so that none is in a cache; only
the thread's own CPU time counts, after compilation. The equivalent on a GPU is experiment E13 of ``gpu``.
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

#: processes image n; returns its output, a view of a batch
Work = Callable[[int], npt.NDArray[Any]]


@dataclass(frozen=True)
class Kind:
    """One row: its output, and who computes it how."""

    name: str
    output: str
    dtype: str
    by: str
    planar: bool = False
    resample: int = RESAMPLE_AREA


#: Rows of one output are compared with OpenCV's row, if there is one: OpenCV cannot write float16.
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
    """Declare this benchmark's options."""
    parser.add_argument("--images", type=positive, default=150, help="number of photographs")
    parser.add_argument("--side", type=positive, default=224, help="side of the output, in pixels")
    words = "longer side that photographs are reduced to first"
    parser.add_argument("--longest", type=positive, default=500, help=words)


def run(arguments: argparse.Namespace) -> Record:
    """Measure every image with each contender, in turns; summarise by whether images shrink or grow."""
    photos = find_photos(arguments.data, arguments.work)
    images = [read(path, arguments.longest) for path in photos.paths[: arguments.images]]
    boxes = crops(images)
    work = contenders(images, boxes, arguments.side)
    seconds = {key: np.zeros((arguments.rounds, len(images))) for key in work}
    for do in work.values():
        one_turn(do, len(images))  # compiles, and touches the memory for the first time
    for number, key in interleaved(list(work), arguments.rounds):
        seconds[key][number] = one_turn(work[key], len(images))
    moved = {dtype: moved_bytes(boxes, arguments.side, dtype) for dtype in DTYPES}
    rows = [
        row for case, chosen in cases(boxes, arguments.side) for row in sum_up(case, chosen, seconds, moved)
    ]
    settings = {"side": arguments.side, "longest": arguments.longest, "photos": photos.facts(), "cores": 1}
    note = "bound: a NumPy copy that reads half of these bytes and writes half, from and to the same memory"
    return Record("kernels", settings, METRICS, rows, [note])


def one_turn(do: Work, count: int) -> list[float]:
    """Return the thread's CPU seconds for every image."""
    found = []
    for n in range(count):
        begin = time.thread_time()
        do(n)
        found.append(time.thread_time() - begin)
    return found


def moved_bytes(boxes: npt.NDArray[np.int32], side: int, dtype: str) -> npt.NDArray[np.int64]:
    """Return the bytes read and written per image: those of the crop and of the output."""
    crop = boxes[:, 2:].astype(np.int64).prod(axis=1) * 3
    return np.asarray(crop + side * side * 3 * np.dtype(dtype).itemsize, np.int64)


def read(path: Path, longest: int) -> npt.NDArray[np.uint8]:
    """Decode a photograph, reduced to a longer side of at most `longest`."""
    image = read_photo(path)
    scale = min(1.0, longest / max(image.shape[:2]))
    size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
    return np.ascontiguousarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def crops(images: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.int32]:
    """Return one box per image, drawn as by torchvision's RandomResizedCrop with its defaults."""
    draws = np.random.default_rng(0).random((len(images), CROP_DRAWS))
    heights, widths = (np.array([image.shape[axis] for image in images]) for axis in (0, 1))
    return random_resized_crop(draws, heights, widths, (0.08, 1.0), (3 / 4, 4 / 3))


def cases(boxes: npt.NDArray[np.int32], side: int) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    """Return which images shrink along both axes, which grow, and which do one of each."""
    shrink, grow = (boxes[:, 2:] >= side).all(axis=1), (boxes[:, 2:] < side).all(axis=1)
    found = [("both axes shrink", shrink), ("both axes grow", grow), ("one of each", ~shrink & ~grow)]
    return [(name, chosen) for name, chosen in found if chosen.any()]


def sum_up(
    case: str,
    chosen: npt.NDArray[np.bool_],
    seconds: dict[Any, npt.NDArray[Any]],
    moved: dict[str, npt.NDArray[np.int64]],
) -> list[Row]:
    """Return one row per contender, and one per copy, the bound of the others."""
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
    """Return what processes image n, by `Kind`, and by dtype the copies that bound them."""
    cv2.setNumThreads(1)
    launch = Launches(images, boxes, side)
    found: dict[Any, Work] = {
        kind: launch.work(kind) if kind.by == "kernel" else by_opencv(images, boxes, side, kind)
        for kind in KINDS
    }
    return found | {dtype: launch.copy(moved_bytes(boxes, side, dtype)) for dtype in DTYPES}


def values_of(dtype: str) -> npt.NDArray[Any]:
    """Return the output for each value of each channel, (3, 256)."""
    if dtype == "uint8":
        return np.tile(np.arange(256, dtype=np.uint8), (3, 1))
    return np.asarray((np.arange(256) - MEAN[:, None]) / STD[:, None], dtype)


def by_opencv(
    images: list[npt.NDArray[np.uint8]], boxes: npt.NDArray[np.int32], side: int, kind: Kind
) -> Work:
    """Crop, resize, flip every other image and normalise, into allocated memory."""
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
    """One launch of the kernel per image, from an arena to the image's place in a batch."""

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
        """Return what processes image n as `kind` says."""
        from ffcv_gpu.kernels.shell_cpu import compose

        side, count = self._side, len(self._boxes)
        values = values_of(kind.dtype)
        bits = {"uint8": np.uint8, "float16": np.uint16, "float32": np.uint32}[kind.dtype]
        pixel = (side, 1, side * side) if kind.planar else (side * 3, 3, 1)
        strides = np.array([side * side * 3, *pixel], np.int64)
        out = np.ones(count * side * side * 3, bits)  # ones, not empty: touches the pages
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
        """Return what copies half of the bytes that the kernel reads and writes for image n."""
        halves = moved // 2
        out = np.ones(int(halves.max()) * len(halves), np.uint8).reshape(len(halves), -1)
        starts = np.minimum(self._table[:, 1], self._arena.size - halves)

        def work(n: int) -> npt.NDArray[Any]:
            np.copyto(out[n, : halves[n]], self._arena[starts[n] : starts[n] + halves[n]])
            return out[n]

        return work


BENCH = Bench(
    "kernels", "crop, resize, flip, normalise on one core, against OpenCV", add_options, run, rounds=9
)
