"""On the CPU: each image into memory that was used before, by whichever thread is free."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator

import numpy as np

from ffcv_gpu.decode.arguments import Job
from ffcv_gpu.decode.threads import shared_out
from ffcv_gpu.device.buffer_pool import BufferPool
from ffcv_gpu.jpeg.base import Box, ByteArray, Decoded, Fault, File, FileBackend
from ffcv_gpu.jpeg.turbo import TurboBackend
from ffcv_gpu.jpeg.turbo3 import Turbo3Backend
from ffcv_gpu.steps import IntArray

__all__ = ["host_backend", "on_cpu", "trim_memory"]

#: of memory that no image uses any more, bytes kept for later calls: 32 images of 4K take 0.8 GB
KEEP_BYTES = 1 << 30
#: Images of fewer bytes lie several in a block: memory of its own costs each 10 microseconds.
LARGE_BYTES, BLOCK_BYTES = 1 << 20, 1 << 22
#: smaller images come from the system's allocator, which is as quick for them
SMALL_BYTES = 1 << 16
#: Where rows begin at a multiple of 32 bytes, libjpeg-turbo writes past the cache, which costs small images
#: 4-6 % (256 x 192: 183 microseconds instead of 173), and whoever reads the pixels next some more.
BEGIN = 16
#: time for a byte of a file, in that for a pixel: 6.1 and 1.65 nanoseconds, photographs of 500 x 375
PIXELS_A_BYTE = 4

_NOTHING = np.empty(0, np.uint8)
_pool = BufferPool(keep=None, keep_bytes=KEEP_BYTES, begin=BEGIN)


def trim_memory() -> None:
    """Give back what `decode_jpegs` keeps of memory that no image uses any more."""
    _pool.trim()


@functools.cache
def host_backend(name: str, dct: str) -> FileBackend:
    """Return a decoder, made on first use."""
    return Turbo3Backend(dct) if name == "turbo3" else TurboBackend(dct)


def on_cpu(
    job: Job, boxes: IntArray | None, backend: FileBackend, workers: int
) -> tuple[list[ByteArray | None], Decoded]:
    """Decode all images, or those rectangles of them; a bad one is None."""
    if workers < 1:
        workers = len(os.sched_getaffinity(0))
    which = job.readable().tolist()
    if boxes is None:
        return _whole(job, which, backend, workers)
    return _parts(job, which, list(map(tuple, boxes.tolist())), backend, workers)


def _whole(
    job: Job, which: list[int], backend: FileBackend, workers: int
) -> tuple[list[ByteArray | None], Decoded]:
    """Decode images to where they stay."""
    heights, widths = job.heights.tolist(), job.widths.tolist()
    memory = dict(zip(which, _places([3 * heights[i] * widths[i] for i in which]), strict=True))
    files: list[File] = [(i, job.items[i], memory[i], heights[i], widths[i], None) for i in which]
    faults: dict[int, Fault] = {}
    shared_out(_by_cost(files), lambda some: faults.update(backend.decode_files(some)), workers)
    images: list[ByteArray | None] = [None] * len(job.items)
    for i in which:
        if i not in faults:
            images[i] = memory[i].reshape(heights[i], widths[i], 3)
    return images, job.outcome(faults)


def _parts(
    job: Job, which: list[int], boxes: list[Box], backend: FileBackend, workers: int
) -> tuple[list[ByteArray | None], Decoded]:
    """Decode rectangles, in each thread one after the other in one place; copy them to where they stay."""
    heights, widths = job.heights.tolist(), job.widths.tolist()
    largest = int((3 * job.heights * job.widths).max())
    images: list[ByteArray | None] = [None] * len(job.items)
    faults: dict[int, Fault] = {}

    def work(some: Iterator[int]) -> None:
        memory = _own(largest)
        for i in some:
            height, width = heights[i], widths[i]
            wrong = backend.decode_files([(i, job.items[i], memory, height, width, boxes[i])])
            faults.update(wrong)
            if not wrong:
                y, x, rows, columns = boxes[i]
                image = memory[: 3 * height * width].reshape(height, width, 3)
                images[i] = part = _own(3 * rows * columns).reshape(rows, columns, 3)
                np.copyto(part, image[y : y + rows, x : x + columns])

    shared_out(sorted(which, key=lambda i: -heights[i] * widths[i]), work, workers)
    return images, job.outcome(faults)


def _by_cost(files: list[File]) -> list[File]:
    """Return files in the order of the time that they take, longest first."""
    return sorted(files, key=lambda file: -file[3] * file[4] - PIXELS_A_BYTE * file[1].size)


def _places(sizes: list[int]) -> list[ByteArray]:
    """Return memory for each image of a call: for large ones each its own, for small ones in common."""
    small = [size for size in sizes if size < LARGE_BYTES]
    left, block, places = sum(map(_lines, small)), _NOTHING, []
    for size in sizes:
        if size >= LARGE_BYTES:
            places.append(_own(size))
            continue
        if block.size < size:
            block = _own(min(left, BLOCK_BYTES))
        places.append(block[:size])
        block, left = block[_lines(size) :], left - _lines(size)
    return places


def _lines(size: int) -> int:
    """Return a size rounded up to cache lines: images of two threads share none."""
    return -(-size // 64) * 64


def _own(size: int) -> ByteArray:
    """Return uint8 (size,), free again when nobody refers to it any more."""
    if size < SMALL_BYTES:
        return np.empty(size, np.uint8)
    # Images of about the same size use each other's memory: of an eighth at most, nothing is made.
    step = 1 << (size.bit_length() - 4)
    return _pool.take(-(-size // step) * step)[:size]
