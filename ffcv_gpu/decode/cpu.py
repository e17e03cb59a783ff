"""Decoding on the CPU: each free thread takes the next image; memory is reused between calls."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import numpy as np

from ffcv_gpu.decode.arguments import Job
from ffcv_gpu.decode.threads import shared_out
from ffcv_gpu.device.buffer_pool import LINE, BufferPool
from ffcv_gpu.jpeg.base import Box, ByteArray, Decoded, Fault, File, FileBackend
from ffcv_gpu.jpeg.crop_index import has_true_crop_index
from ffcv_gpu.jpeg.cropped import cut_crop
from ffcv_gpu.jpeg.turbo import TurboBackend
from ffcv_gpu.jpeg.turbo2 import Turbo2Backend
from ffcv_gpu.jpeg.turbo3 import Turbo3Backend
from ffcv_gpu.steps import IntArray

__all__ = ["host_backend", "on_cpu", "trim_pool"]

#: free memory kept for later calls, bytes: 32 images of 4K take 0.8 GB
KEEP_BYTES = 1 << 30
#: Images below LARGE_BYTES share a block: separate memory would cost 10 microseconds per image.
LARGE_BYTES, BLOCK_BYTES = 1 << 20, 1 << 22
#: memory smaller than this comes from the system's allocator, which is as fast at this size
SMALL_BYTES = 1 << 16
#: Where rows begin at a multiple of 32 bytes, libjpeg-turbo writes past the cache. That slows small images by
#: 4-6 % (256 x 192: 183 microseconds instead of 173), and whatever reads the pixels next as well.
BEGIN = 16

_BACKENDS: dict[str, Callable[[str], FileBackend]] = {
    "turbo": TurboBackend,
    "turbo2": Turbo2Backend,
    "turbo3": Turbo3Backend,
}
_NOTHING = np.empty(0, np.uint8)
_pool = BufferPool(keep=None, keep_bytes=KEEP_BYTES, begin=BEGIN)


def trim_pool() -> None:
    """Release memory that no image uses any more."""
    _pool.trim()


@functools.cache
def host_backend(name: str, dct: str) -> FileBackend:
    """Return a decoder, created on first use."""
    return _BACKENDS[name](dct)


def on_cpu(
    job: Job, boxes: IntArray | None, backend: FileBackend, workers: int
) -> tuple[list[ByteArray | None], Decoded]:
    """Decode all images, or their rectangles `boxes`; a bad image is None."""
    work = _Whole(job, backend, workers) if boxes is None else _Parts(job, backend, boxes)
    # The largest files go first, so that all threads finish at about the same time.
    order = sorted(range(len(job.items)), key=lambda i: -job.items[i].size)
    shared_out(order, work.run, workers)
    for i in work.faults:
        work.images[i] = None
    return work.images, job.outcome(work.faults)


class _Whole:
    """Decodes whole images, each directly into its final memory.

    Each thread also does the small work before and after decoding for its own images, so that no single
    thread has to do it for all.
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
        """Allocate memory for each image: separate for large ones, shared blocks for small ones."""
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
    """Decodes rectangles: each thread reuses its memory for all its images and copies the rectangles out."""

    def __init__(self, job: Job, backend: FileBackend, boxes: IntArray) -> None:
        self._items, self._backend, found = job.items, backend, job.found
        columns = found.heights, found.widths, found.scan_offsets, found.facts["components"]
        self._headers = list(zip(*(column.tolist() for column in columns), strict=True))
        self._boxes: list[Box] = [(y, x, rows, columns) for y, x, rows, columns in boxes.tolist()]
        self.images: list[ByteArray | None] = [None] * len(job.items)
        self.faults = job.unreadable()

    def run(self, some: Iterator[int]) -> None:
        """Decode some images; several threads may."""
        pixels, cut = _Room(), _Room()
        for i in some:
            if i in self.faults:
                continue
            for data, height, width, box in self._ways(i, cut):
                memory, (y, x, rows, columns) = pixels(3 * height * width), box
                wrong = self._backend.decode_files([(i, data, memory, height, width, box)])
                if not wrong:
                    self.images[i] = part = _own(3 * rows * columns).reshape(rows, columns, 3)
                    np.copyto(part, memory.reshape(height, width, 3)[y : y + rows, x : x + columns])
                    break
            else:
                self.faults.update(wrong)

    def _ways(self, i: int, cut: _Room) -> Iterator[tuple[ByteArray, int, int, Box]]:
        """Yield JPEGs with their height, width and rectangle, until one can be decoded: a part, the whole."""
        data, box, (height, width, scan, components) = self._items[i], self._boxes[i], self._headers[i]
        if has_true_crop_index(data, scan, components):
            found = cut_crop(data, height, width, box, cut(data.size))
            if found is not None:
                part, (top, left, rows, columns) = found
                yield part, rows, columns, (box[0] - top, box[1] - left, *box[2:])
        yield data, height, width, box


class _Room:
    """Memory of one thread that grows as needed."""

    def __init__(self) -> None:
        self._memory = _NOTHING

    def __call__(self, size: int) -> ByteArray:
        """Return uint8 (size,), valid until the next call."""
        if self._memory.size < size:
            self._memory = _own(size)
        return self._memory[:size]


def _own(size: int) -> ByteArray:
    """Return uint8 (size,), uninitialised; its memory is reused once nothing refers to it."""
    if size < SMALL_BYTES:
        return np.empty(size, np.uint8)
    # Rounded up by at most an eighth, so that images of about the same size can reuse each other's memory.
    step = 1 << (size.bit_length() - 4)
    return _pool.take(-(-size // step) * step)[:size]
