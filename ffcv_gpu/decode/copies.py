"""Copies files to pinned memory in several threads, while earlier files are decoded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ffcv_gpu.decode.threads import InOrder
from ffcv_gpu.jpeg.base import ByteArray

__all__ = ["Copies", "helpers_for"]

#: bytes that a thread copies at a time: takes 100 microseconds, 10 of them in Python
PIECE_BYTES = 1 << 20
#: minimum bytes per helper: waking one costs the calling thread up to 60 microseconds
HELPER_BYTES = 1 << 23


def helpers_for(size_bytes: int, workers: int) -> int:
    """Return how many helpers to use for `size_bytes`; `workers` includes the calling thread."""
    return min(workers - 1, size_bytes // HELPER_BYTES)


class Copies(InOrder):
    """Copies files one after another into `target`, without gaps; see `InOrder`.

    Parameters
    ----------
    files : sequence of uint8 (n,), C-contiguous
    target : uint8 (n,), C-contiguous
        At least as large as all files together.
    cuts : sequence of int
        The counts that `bring` may be called with, ascending; the last is the number of files.
    helpers : int
        Number of threads besides the calling one.
    """

    def __init__(
        self, files: Sequence[ByteArray], target: ByteArray, cuts: Sequence[int], helpers: int
    ) -> None:
        self._files, self._target = files, target
        self._lengths = np.array([file.size for file in files], np.int64)
        ends = np.cumsum(self._lengths)
        self._starts = ends - self._lengths
        self._edges = [0, *cuts]
        if helpers:
            steps = np.searchsorted(ends, np.arange(PIECE_BYTES, int(ends[-1]), PIECE_BYTES))
            self._edges = sorted({*self._edges, *steps.tolist()})
        super().__init__(self._copy if helpers else self._join, len(self._edges) - 1, helpers)

    def _join(self, piece: int) -> None:
        """Copy a piece with numpy, which holds the GIL."""
        lo, hi = self._edges[piece : piece + 2]
        first, last = int(self._starts[lo]), int(self._starts[hi - 1] + self._lengths[hi - 1])
        np.concatenate(self._files[lo:hi], out=self._target[first:last])

    def _copy(self, piece: int) -> None:
        """Copy a piece without the GIL."""
        from ffcv_gpu.kernels.copy_cpu import copy_memory

        lo, hi = self._edges[piece : piece + 2]
        # Reading an address takes a microsecond: too long for one thread to do for all files.
        addresses = [file.__array_interface__["data"][0] for file in self._files[lo:hi]]
        where = self._lengths[lo:hi], self._target, self._starts[lo:hi]
        copy_memory(np.array(addresses, np.uint64), *where, 0, hi - lo)

    def bring(self, count: int) -> None:
        """Block until the first `count` files are copied; see `InOrder.finish`."""
        self.finish(self._edges.index(count))
