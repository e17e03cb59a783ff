"""On the CPU: each image into memory that was used before, by whichever thread is free."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator

import numpy as np

from ffcv_gpu.decode.arguments import Job
from ffcv_gpu.decode.threads import shared_out
from ffcv_gpu.device.buffer_pool import BufferPool
from ffcv_gpu.jpeg.base import ByteArray, Decoded, Fault, OneByOne
from ffcv_gpu.jpeg.turbo import TurboBackend
from ffcv_gpu.jpeg.turbo3 import Turbo3Backend
from ffcv_gpu.steps import IntArray

__all__ = ["host_backend", "on_cpu", "trim_memory"]

#: of memory that no image uses any more, bytes kept for later calls: 32 images of 4K take 0.8 GB
KEEP_BYTES = 1 << 30
#: smaller images come from the system's allocator, which is as quick for them
SMALL_BYTES = 1 << 16
#: Where rows begin at a multiple of 32 bytes, libjpeg-turbo writes past the cache, which costs small images
#: 4-6 % (256 x 192: 183 microseconds instead of 173), and whoever reads the pixels next some more.
BEGIN = 16
#: time for a byte of a file, in that for a pixel: 6.1 and 1.65 nanoseconds, photographs of 500 x 375
PIXELS_A_BYTE = 4

_pool = BufferPool(keep=None, keep_bytes=KEEP_BYTES, begin=BEGIN)


def trim_memory() -> None:
    """Give back what `decode_jpegs` keeps of memory that no image uses any more."""
    _pool.trim()


@functools.cache
def host_backend(name: str, dct: str) -> OneByOne:
    """Return a decoder, made on first use."""
    return Turbo3Backend(dct) if name == "turbo3" else TurboBackend(dct)


def on_cpu(
    job: Job, boxes: IntArray | None, backend: OneByOne, workers: int
) -> tuple[list[ByteArray | None], Decoded]:
    """Decode all images, or those rectangles of them; a bad one is None."""
    which = job.readable()
    costs = job.heights[which] * job.widths[which] + PIXELS_A_BYTE * job.lengths[which]
    if workers < 1:
        workers = len(os.sched_getaffinity(0))
    work = _Work(job, boxes, backend)
    shared_out(which[np.argsort(-costs)].tolist(), work.whole if boxes is None else work.parts, workers)
    return work.images, job.outcome(work.faults)


class _Work:
    """The images of one call; threads fill in what they made."""

    def __init__(self, job: Job, boxes: IntArray | None, backend: OneByOne) -> None:
        self._items, self._decode = job.items, backend.decode_one
        self._sizes = list(zip(job.heights.tolist(), job.widths.tolist(), strict=True))
        self._boxes = [] if boxes is None else list(map(tuple, boxes.tolist()))
        self._largest = int((3 * job.heights * job.widths).max())
        self.images: list[ByteArray | None] = [None] * len(job.items)
        self.faults: dict[int, Fault] = {}

    def whole(self, which: Iterator[int]) -> None:
        """Decode images to where they stay."""
        for i in which:
            height, width = self._sizes[i]
            memory = _memory(3 * height * width)
            fault = self._decode(self._items[i], memory, height, width)
            if fault is None:
                self.images[i] = memory.reshape(height, width, 3)
            else:
                self.faults[i] = fault

    def parts(self, which: Iterator[int]) -> None:
        """Decode rectangles, one after the other in the same place, and copy them to where they stay."""
        memory = _memory(self._largest)
        for i in which:
            (height, width), box = self._sizes[i], self._boxes[i]
            fault = self._decode(self._items[i], memory, height, width, box)
            if fault is None:
                y, x, rows, columns = box
                image = memory[: 3 * height * width].reshape(height, width, 3)
                self.images[i] = part = _memory(3 * rows * columns).reshape(rows, columns, 3)
                np.copyto(part, image[y : y + rows, x : x + columns])
            else:
                self.faults[i] = fault


def _memory(size: int) -> ByteArray:
    """Return uint8 (size,) for an image, which is free again when nobody refers to the image any more."""
    if size < SMALL_BYTES:
        return np.empty(size, np.uint8)
    # Images of about the same size use each other's memory: of an eighth at most, nothing is made.
    step = 1 << (size.bit_length() - 4)
    return _pool.take(-(-size // step) * step)[:size]
