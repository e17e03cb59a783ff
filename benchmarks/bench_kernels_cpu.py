"""``kernels-cpu``: random-resized crops of photographs on one core, image by image, beside cv2.resize.

What the loader does after decoding: crop, resample by area to a square, mirror every other image, and write
grey levels, or numbers normalised by a table. OpenCV crops, resamples and mirrors only. Both work on the same
boxes in the same process, one after the other, and only the thread's own time counts; compilers have run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.harness import interleaved
from benchmarks.options import Bench, positive
from benchmarks.photos import find_photos
from benchmarks.record import Metric, Record, Row
from ffcv_gpu.crops import CROP_DRAWS, random_resized_crop
from ffcv_gpu.kernels.codes import RESAMPLE_ANTIALIAS, RESAMPLE_AREA, scratch_size

__all__ = ["BENCH"]

METRICS = [Metric("CPU per image", "ms", "cpu_seconds", over="images", scale=1e3, ratio=True)]
MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])

Work = Callable[[int], None]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what this benchmark takes."""
    parser.add_argument("--images", type=positive, default=150, help="photographs to take")
    parser.add_argument("--side", type=positive, default=224, help="of the output, in pixels")
    parser.add_argument("--longest", type=positive, default=500, help="shrink photographs to this first")


def run(arguments: argparse.Namespace) -> Record:
    """Measure each image in turn with each contender; sum up by what happens to its size."""
    photos = find_photos(arguments.data, arguments.work)
    images = [read(path, arguments.longest) for path in photos.paths[: arguments.images]]
    boxes = crops(images)
    work = contenders(images, boxes, arguments.side)
    seconds = {name: np.zeros((arguments.rounds, len(images))) for name in work}
    for do in work.values():
        do(0)
    for n in range(len(images)):
        for number, name in interleaved(list(work), arguments.rounds):
            begin = time.thread_time()
            work[name](n)
            seconds[name][number, n] = time.thread_time() - begin
    rows = [row for case, chosen in cases(boxes, arguments.side) for row in sum_up(case, chosen, seconds)]
    settings = {"side": arguments.side, "longest": arguments.longest, "photos": photos.facts()}
    return Record("kernels-cpu", settings, METRICS, rows)


def read(path: Any, longest: int) -> npt.NDArray[np.uint8]:
    """Decode a photograph, no larger than `longest`."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
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


def sum_up(case: str, chosen: npt.NDArray[np.bool_], seconds: dict[str, npt.NDArray[Any]]) -> list[Row]:
    """One row a contender."""
    count = int(chosen.sum())
    rows = []
    for name, measured in seconds.items():
        repeats = [{"cpu_seconds": float(turn[chosen].sum()), "images": count} for turn in measured]
        rows.append(Row(f"{case} ({count} images)", name, repeats=repeats))
    for row in rows:
        row.sum_up(METRICS, rows[0])
    return rows


def contenders(
    images: list[npt.NDArray[np.uint8]], boxes: npt.NDArray[np.int32], side: int
) -> dict[str, Work]:
    """Return what works on image n, by name; OpenCV first, the others are compared with it."""
    cv2.setNumThreads(1)
    grey = np.tile(np.arange(256, dtype=np.uint8), (3, 1))
    normalised = (np.arange(256) - MEAN[:, None]) / STD[:, None]
    half = normalised.astype(np.float16).view(np.uint16)
    single = normalised.astype(np.float32).view(np.uint32)
    launch = Launches(images, boxes, side)
    return {
        "cv2.resize, flip": by_opencv(images, boxes, side),
        "uint8 NHWC": launch.work(grey),
        "float16 NHWC, normalised": launch.work(half),
        "float16 NCHW, normalised": launch.work(half, planar=True),
        "float32 NCHW, normalised": launch.work(single, planar=True),
        "uint8 NHWC, antialias": launch.work(grey, resample=RESAMPLE_ANTIALIAS),
    }


def by_opencv(images: list[npt.NDArray[np.uint8]], boxes: npt.NDArray[np.int32], side: int) -> Work:
    """Crop, resize, mirror every other image, into memory that is there already."""
    resized, mirrored = (np.empty((side, side, 3), np.uint8) for _ in range(2))

    def work(n: int) -> None:
        y, x, h, w = boxes[n]
        cv2.resize(images[n][y : y + h, x : x + w], (side, side), resized, interpolation=cv2.INTER_AREA)
        if n % 2:
            cv2.flip(resized, 1, mirrored)

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

    def work(self, lut: npt.NDArray[Any], *, planar: bool = False, resample: int = RESAMPLE_AREA) -> Work:
        """Return what composes image n through `lut`."""
        from ffcv_gpu.kernels.shell_cpu import compose

        side, count = self._side, len(self._boxes)
        pixel = (side, 1, side * side) if planar else (side * 3, 3, 1)
        strides = np.array([side * side * 3, *pixel], np.int64)
        out = np.ones(count * side * side * 3, lut.dtype)  # ones: memory that is really there
        nothing = np.zeros((count, 0), np.float32), np.zeros((0, 2), np.int32), np.zeros((0, 4), np.uint32)
        before = (self._arena, self._arena, self._table, self._boxes, self._geometry, *nothing, 0, lut, out)

        def work(n: int) -> None:
            compose(*before, strides, side, side, resample, self._scratch, n, n + 1)

        return work


BENCH = Bench("kernels-cpu", "crop and resize on one core, beside OpenCV", add_options, run, rounds=9)
