"""On the CPU: each image into memory that was used before, by whichever thread is free."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from ffcv_gpu.decode.arguments import Job
from ffcv_gpu.decode.threads import shared_out
from ffcv_gpu.device.buffer_pool import LINE, BufferPool
from ffcv_gpu.jpeg.base import Box, ByteArray, Decoded, Fault, File, FileBackend
from ffcv_gpu.jpeg.turbo import TurboBackend
from ffcv_gpu.jpeg.turbo3 import Turbo3Backend
from ffcv_gpu.steps import IntArray

__all__ = ["host_backend", "on_cpu", "trim_pool"]

#: of memory that no image uses any more, bytes kept for later calls: 32 images of 4K take 0.8 GB
KEEP_BYTES = 1 << 30
#: Images of fewer bytes lie several in a block: memory of its own costs each 10 microseconds.
LARGE_BYTES, BLOCK_BYTES = 1 << 20, 1 << 22
#: smaller images come from the system's allocator, which is as quick for them
SMALL_BYTES = 1 << 16
#: Where rows begin at a multiple of 32 bytes, libjpeg-turbo writes past the cache, which costs small images
#: 4-6 % (256 x 192: 183 microseconds instead of 173), and whoever reads the pixels next some more.
BEGIN = 16

_NOTHING = np.empty(0, np.uint8)
_pool = BufferPool(keep=None, keep_bytes=KEEP_BYTES, begin=BEGIN)


def trim_pool() -> None:
    """Give back memory that no image uses any more."""
    _pool.trim()


@functools.cache
def host_backend(name: str, dct: str) -> FileBackend:
    """Return a decoder, made on first use."""
    return Turbo3Backend(dct) if name == "turbo3" else TurboBackend(dct)


def on_cpu(
    job: Job, boxes: IntArray | None, backend: FileBackend, workers: int
) -> tuple[list[ByteArray | None], Decoded]:
    """Decode all images, or those rectangles of them; a bad one is None."""
    work = _Whole(job, backend, workers) if boxes is None else _Parts(job, backend, boxes)
    # The longest files are begun first, so that all threads end at about the same time.
    order = sorted(range(len(job.items)), key=lambda i: -job.items[i].size)
    shared_out(order, work.run, workers)
    for i in work.faults:
        work.images[i] = None
    return work.images, job.outcome(work.faults)


class _Whole:
    """Images are decoded to where they stay. A thread does all there is to do for an image, one by one.

    So what is done before and after decoding, small as it is, is done by all threads, not by one for all.
    """

    def __init__(self, job: Job, backend: FileBackend, workers: int) -> None:
        self._job, self._backend = job, backend
        self._share = -(-len(job.items) // workers)
        self.images: list[ByteArray | None] = [None] * len(job.items)
        self.faults: dict[int, Fault] = {}

    def run(self, some: Iterator[int]) -> None:
        """Decode some images; several threads may."""
        self.faults.update(self._backend.decode_files(self._files(some)))

    def _files(self, some: Iterator[int]) -> Iterator[File]:
        """Give each image memory: a large one its own, small ones have some in common."""
        items, images, headers = self._job.items, self.images, self._job.headers
        block, at = _NOTHING, 0
        for i in some:
            height, width = headers.read(i)
            size = 3 * height * width
            if not size:
                self.faults[i] = headers.fault(i)
                continue
            if size >= LARGE_BYTES:
                memory = _own(size)
            else:
                lines = -(-size // LINE) * LINE
                if at + size > block.size:
                    block, at = _own(min(lines * self._share, BLOCK_BYTES)), 0
                memory = block[at : at + size]
                at += lines
            images[i] = memory.reshape(height, width, 3)
            yield i, items[i], memory, height, width, None


class _Parts:
    """Rectangles: each thread decodes images to one place, one by one, and copies out what shall stay."""

    def __init__(self, job: Job, backend: FileBackend, boxes: IntArray) -> None:
        self._items, self._backend = job.items, backend
        self._heights, self._widths = job.found.heights.tolist(), job.found.widths.tolist()
        self._boxes: list[Box] = [(y, x, rows, columns) for y, x, rows, columns in boxes.tolist()]
        self.images: list[ByteArray | None] = [None] * len(job.items)
        self.faults = job.unreadable()

    def run(self, some: Iterator[int]) -> None:
        """Decode some images; several threads may."""
        memory = _NOTHING
        for i in some:
            height, width, box = self._heights[i], self._widths[i], self._boxes[i]
            if i in self.faults:
                continue
            if memory.size < 3 * height * width:
                memory = _own(3 * height * width)
            wrong = self._backend.decode_files([(i, self._items[i], memory, height, width, box)])
            self.faults.update(wrong)
            if not wrong:
                y, x, rows, columns = box
                image = memory[: 3 * height * width].reshape(height, width, 3)
                self.images[i] = part = _own(3 * rows * columns).reshape(rows, columns, 3)
                np.copyto(part, image[y : y + rows, x : x + columns])


def _own(size: int) -> ByteArray:
    """Return uint8 (size,), free again when nobody refers to it any more."""
    if size < SMALL_BYTES:
        return np.empty(size, np.uint8)
    # Images of about the same size use each other's memory: of an eighth at most, nothing is made.
    step = 1 << (size.bit_length() - 4)
    return _pool.take(-(-size // step) * step)[:size]
