"""Reads several files as if they followed one another in one address space.

File k occupies ``[bases[k], bases[k + 1])``. A range lies in one file; parts of a request that lie in
different files are passed on to these files' readers, with offsets in their files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from ffcv_gpu.readers.base import ByteArray, EpochRanges, EpochReader, RangeReader, Reader, Unscheduled
from ffcv_gpu.steps import IntArray

__all__ = ["JoinedReader"]


class JoinedRanges:
    """Reads ranges of several files.

    Parameters
    ----------
    readers : sequence of callable
        Each returns the reader of one file; called for the files that a request touches.
    bases : int64 (files,)
        Offset of each file's first byte, ascending from 0.
    """

    def __init__(self, readers: Sequence[Callable[[], RangeReader]], bases: IntArray) -> None:
        self._readers, self._bases = readers, bases

    def _files(self, offsets: IntArray) -> IntArray:
        """Return the number of each range's file."""
        found: IntArray = np.searchsorted(self._bases, offsets, side="right") - 1
        return np.maximum(found, 0)  # an invalid offset: the file's reader says so

    def _touched(self, files: IntArray) -> dict[int, RangeReader]:
        """Return the readers of these files: all begin to fetch before anything waits for one of them."""
        return {number: self._readers[number]() for number in files.tolist()}

    def locate(self, offsets: IntArray, lengths: IntArray) -> tuple[ByteArray, IntArray] | None:
        """Return memory that spans that of all files, and each range's offset in it; None if one has none."""
        files, memories, addresses = self._files(offsets), [], np.empty(offsets.size, np.int64)
        order = np.argsort(files, kind="stable")
        begins = np.flatnonzero(np.diff(files[order], prepend=-1))
        readers = self._touched(files[order[begins]])
        for rows in np.split(order, begins[1:]) if order.size else ():
            number = files[rows[0]]
            found = readers[number].locate(offsets[rows] - self._bases[number], lengths[rows])
            if found is None:
                return None
            memories.append(found[0])
            addresses[rows] = found[1] + address_of(found[0])
        if not memories:
            return np.empty(0, np.uint8), addresses
        memory = spanning(memories)
        return memory, addresses - address_of(memory)

    def read_into(self, offsets: IntArray, lengths: IntArray, out: ByteArray) -> None:
        """Fill `out` with the ranges one after another."""
        files, ends = self._files(offsets), np.cumsum(lengths)
        readers = self._touched(np.unique(files))
        edges = [0, *(np.flatnonzero(np.diff(files)) + 1).tolist(), files.size]
        for lo, hi in pairwise(edges):
            if lo < hi:
                part = out[int(ends[lo] - lengths[lo]) : int(ends[hi - 1])]
                reader, base = readers[files[lo]], self._bases[files[lo]]
                reader.read_into(offsets[lo:hi] - base, lengths[lo:hi], part)

    def view(self, offset: int, length: int) -> ByteArray:
        """Return one range."""
        number = int(self._files(np.array([offset]))[0])
        return self._readers[number]().view(offset - int(self._bases[number]), length)


class JoinedReader(JoinedRanges):
    """A reader of several files, made of theirs.

    Parameters
    ----------
    readers : sequence of Reader
        One for each file.
    bases : int64 (files,)
        See `JoinedRanges`.
    firsts : int64 (files,)
        Number of each file's first sample; samples are numbered from file to file.
    """

    def __init__(self, readers: Sequence[Reader], bases: IntArray, firsts: IntArray) -> None:
        super().__init__([lambda reader=reader: reader for reader in readers], bases)  # type: ignore[misc]
        self._parts, self._firsts = readers, firsts

    def begin(self, ranges: EpochRanges) -> EpochReader:
        """Return a reader for one epoch, made of those of the files."""
        files = _ByFile(ranges, self._firsts)
        begun = [part.begin(self._own(number, ranges, files)) for number, part in enumerate(self._parts)]
        if all(isinstance(epoch, Unscheduled) for epoch in begun):
            return Unscheduled(self)
        return _JoinedEpoch(begun, self._bases)

    def _own(self, number: int, ranges: EpochRanges, files: _ByFile) -> EpochRanges:
        """Return what an epoch reads of one file."""
        last = self._firsts.size == number + 1
        samples = slice(int(self._firsts[number]), None if last else int(self._firsts[number + 1]))
        fields = [
            (offsets[samples] - self._bases[number], sizes[samples]) for offsets, sizes in ranges.fields
        ]
        return _OwnRanges(_Own(ranges.batches, samples), fields, ranges.in_flight, number, files)

    def close(self) -> None:
        """Close the files."""
        for part in self._parts:
            part.close()


class _ByFile:
    """The samples of an epoch by file: divided once for all files, when the first of them asks.

    If each file looked through all batches, 512 files with 1.28 million samples would take half a minute.
    """

    def __init__(self, ranges: EpochRanges, firsts: IntArray) -> None:
        self._ranges, self._firsts = ranges, firsts

    def flat(self, number: int) -> tuple[IntArray, IntArray]:
        """Return `EpochRanges.flat` of one file."""
        ids, batches, edges = self._divided
        own = slice(edges[number], edges[number + 1])
        return ids[own] - self._firsts[number], batches[own]

    @cached_property
    def _divided(self) -> tuple[IntArray, IntArray, list[int]]:
        ids, batches = self._ranges.flat()
        files = np.searchsorted(self._firsts, ids, side="right") - 1
        order = np.argsort(files, kind="stable")
        edges = np.cumsum([0, *np.bincount(files, minlength=self._firsts.size)]).tolist()
        return ids[order], batches[order], edges


@dataclass(frozen=True)
class _OwnRanges(EpochRanges):
    """What an epoch reads of one file."""

    number: int
    files: _ByFile

    def flat(self) -> tuple[IntArray, IntArray]:
        """Return the file's samples, and the number of each one's batch."""
        return self.files.flat(self.number)


class _Own(Sequence[IntArray]):
    """The batches of an epoch with the samples of one file only, numbered within it."""

    def __init__(self, batches: Sequence[IntArray], samples: slice) -> None:
        self._batches, self._samples = batches, samples

    def __len__(self) -> int:
        return len(self._batches)

    @overload
    def __getitem__(self, index: int) -> IntArray: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[IntArray]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Own(self._batches[index], self._samples)
        return self._of(self._batches[index])

    def __iter__(self) -> Iterator[IntArray]:
        return map(self._of, self._batches)

    def _of(self, batch: IntArray) -> IntArray:
        inside = batch >= self._samples.start
        if self._samples.stop is not None:
            inside &= batch < self._samples.stop
        own: IntArray = batch[inside] - self._samples.start
        return own


class _JoinedEpoch:
    """The epochs of several files, side by side."""

    def __init__(self, epochs: Sequence[EpochReader], bases: IntArray) -> None:
        self._epochs, self._bases = epochs, bases

    def batch(self, index: int) -> RangeReader:
        """Return the reader for batch `index`."""
        readers = [lambda epoch=epoch: epoch.batch(index) for epoch in self._epochs]
        return JoinedRanges(readers, self._bases)

    def passed(self, index: int) -> None:
        """Signal that batches up to `index` no longer need the readers' memory."""
        for epoch in self._epochs:
            epoch.passed(index)

    def stop(self) -> None:
        """End all reading ahead and all waiting at once."""
        for epoch in self._epochs:
            epoch.stop()

    def close(self) -> None:
        """Release threads and memory."""
        for epoch in self._epochs:
            epoch.close()


class _Span:
    """Owns nothing but references: memory from the first byte of some arrays to the last byte of others."""

    def __init__(self, arrays: Sequence[ByteArray]) -> None:
        self._arrays = arrays
        begin = min(address_of(array) for array in arrays)
        end = max(address_of(array) + array.size for array in arrays)
        self.__array_interface__ = {
            "version": 3, "typestr": "|u1", "shape": (end - begin,), "data": (begin, True),
        }  # fmt: skip


def spanning(arrays: Sequence[ByteArray]) -> ByteArray:
    """Return one read-only array that contains the memory of all `arrays`, and refers to them.

    What lies between them is not theirs and must not be read: compiled code takes one array and offsets in
    it, and files are mapped at addresses that the system chooses.
    """
    if len(arrays) == 1:
        return arrays[0]
    span: npt.NDArray[np.uint8] = np.asarray(_Span(arrays))
    return span


def address_of(array: ByteArray) -> int:
    """Return the address of an array's first byte."""
    return int(array.__array_interface__["data"][0])
