"""The memory that a kernel may touch: arrays of the host, and shared memory; every access is checked.

Addresses are those of the arrays themselves. What a GPU answers with an error, and what it would pass over in
silence, ends here in `Fault`: outside of all arrays, misaligned, a byte of shared memory read before it was
written, and a race of two threads for one between two barriers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Fault", "GlobalMemory", "SharedMemory", "address"]

Array = npt.NDArray[Any]

#: of memory that nobody has written
GARBAGE = 0xCD
ALIGNMENT = 256


class Fault(Exception):
    """A kernel did what it must not do."""


class GlobalMemory:
    """Arrays that kernels may read and write.

    Attributes
    ----------
    writes : dict of int to uint8 (bytes,)
        By address of an array, how often each of its bytes was written.
    """

    def __init__(self) -> None:
        self._arrays: list[Array] = []
        self._bases = np.zeros(0, np.int64)
        self.writes: dict[int, npt.NDArray[np.uint8]] = {}

    def allocate(self, size: int) -> npt.NDArray[np.uint8]:
        """Return `size` bytes of garbage at a multiple of 256, as `cudaMalloc` does."""
        raw = np.full(size + ALIGNMENT, GARBAGE, np.uint8)
        begin = -address(raw) % ALIGNMENT
        memory = raw[begin : begin + size]
        self.take([*self._arrays, memory])
        return memory

    def take(self, arrays: Sequence[npt.NDArray[np.uint8]]) -> None:
        """Allow these flat arrays, which do not overlap, and no others."""
        self._arrays = sorted(arrays, key=address)
        self._bases = np.array([address(array) for array in self._arrays], np.int64)
        for array in self._arrays:
            before = self.writes.get(address(array))
            if before is None or before.size != array.size:  # an array of another size took that place
                self.writes[address(array)] = np.zeros(array.size, np.uint8)

    def load(self, at: npt.NDArray[np.int64], dtype: Any) -> Array:
        """Return the numbers at addresses `at`."""
        array, places = self._find(at, np.dtype(dtype).itemsize)
        return array[places].view(dtype)[:, 0]

    def store(self, at: npt.NDArray[np.int64], values: Array) -> None:
        """Write numbers to addresses `at`; of threads that write to one place, any may win."""
        array, places = self._find(at, values.dtype.itemsize)
        array[places] = np.ascontiguousarray(values)[:, None].view(np.uint8)
        np.add.at(self.writes[address(array)], places, 1)

    def _find(self, at: npt.NDArray[np.int64], size: int) -> tuple[Array, Array]:
        """Return the array that holds all of `at`, and (threads, size) places in it."""
        if (at % size).any():
            raise Fault(f"misaligned: {size} bytes at {at[at % size != 0][0]:#x}")
        number = int(np.searchsorted(self._bases, at[0], "right")) - 1
        array = self._arrays[number] if number >= 0 else np.zeros(0, np.uint8)
        offsets = at - address(array)
        outside = (offsets < 0) | (offsets + size > array.size)
        if outside.any():
            raise Fault(f"out of bounds: {size} bytes at byte {offsets[outside][0]} of {array.size}")
        return array, offsets[:, None] + np.arange(size)


class SharedMemory:
    """Shared memory of some blocks of threads; the rows of the arrays are blocks.

    Each byte remembers who wrote it and who read it since the last barrier.
    """

    NOBODY, MANY, ATOMIC = -1, -2, -3

    def __init__(self, blocks: int, size: int) -> None:
        self._bytes = np.full((blocks, size), GARBAGE, np.uint8)
        self._known = np.zeros((blocks, size), np.bool_)
        self._writer = np.full((blocks, size), self.NOBODY, np.int32)
        self._reader = np.full((blocks, size), self.NOBODY, np.int32)

    def barrier(self, blocks: npt.NDArray[np.int64]) -> None:
        """What was done before is seen by all threads of these blocks."""
        self._writer[blocks] = self._reader[blocks] = self.NOBODY

    def load(self, block: Array, thread: Array, at: npt.NDArray[np.int64], dtype: Any) -> Array:
        """Return the numbers at offsets `at`."""
        where = self._find(block, at, np.dtype(dtype).itemsize)
        if not self._known[where].all():
            raise Fault("shared memory is read that nobody wrote")
        self._check(where, thread, self._writer, "is read while another thread writes it")
        before, mine = self._reader[where], thread[:, None]
        reader = np.where((before == self.NOBODY) | (before == mine), mine, self.MANY)
        self._reader[where] = reader
        lost = self._reader[where] != reader
        self._reader[tuple(np.broadcast_to(index, lost.shape)[lost] for index in where)] = self.MANY
        return np.ascontiguousarray(self._bytes[where]).view(dtype)[:, 0]

    def store(self, block: Array, thread: Array, at: npt.NDArray[np.int64], values: Array) -> None:
        """Write numbers to offsets `at`."""
        where = self._find(block, at, values.dtype.itemsize)
        for holders in (self._writer, self._reader):
            self._check(where, thread, holders, "is written while another thread uses it")
        self._bytes[where] = np.ascontiguousarray(values)[:, None].view(np.uint8)
        self._known[where], self._writer[where] = True, thread[:, None]
        self._check(where, thread, self._writer, "is written by two threads at once")

    def add(self, block: Array, at: npt.NDArray[np.int64], values: Array) -> Array:
        """Add atomically, one thread after the other; return what each one found."""
        where = self._find(block, at, values.dtype.itemsize)
        if not self._known[where].all():
            raise Fault("shared memory is added to that nobody wrote")
        everyone = np.full(at.size, self.ATOMIC, np.int32)
        for holders in (self._writer, self._reader):
            self._check(where, everyone, holders, "is added to while another thread uses it")
        self._writer[where] = self.ATOMIC
        numbers = self._bytes.view(values.dtype)
        places = block, at // values.dtype.itemsize
        order = np.lexsort(places[::-1])
        sums = np.cumsum(values[order]) - values[order]
        keys = np.stack([index[order] for index in places])
        first = np.concatenate([[True], (keys[:, 1:] != keys[:, :-1]).any(axis=0)])
        earlier = np.empty_like(values)
        earlier[order] = sums - sums[first][np.cumsum(first) - 1]
        found = numbers[places] + earlier
        np.add.at(numbers, places, values)
        return found

    def _find(self, block: Array, at: npt.NDArray[np.int64], size: int) -> tuple[Array, Array]:
        """Return the rows and columns of all bytes, (threads, size)."""
        if (at % size).any():
            raise Fault(f"misaligned: {size} bytes at {at[at % size != 0][0]} of shared memory")
        if ((at < 0) | (at + size > self._bytes.shape[1])).any():
            raise Fault(f"out of bounds: shared memory has {self._bytes.shape[1]} bytes")
        return block[:, None], at[:, None] + np.arange(size)

    def _check(self, where: tuple[Array, Array], thread: Array, holders: Array, words: str) -> None:
        holder = holders[where]
        others = (holder != self.NOBODY) & (holder != thread[:, None])
        if others.any():
            raise Fault(f"race: byte {where[1][others][0]} of shared memory {words}")


def address(array: Array) -> int:
    """Return where an array begins."""
    return int(array.__array_interface__["data"][0])
