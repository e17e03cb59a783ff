"""The protocols of readers: they return bytes by offset and length, and know an epoch's ranges in advance."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import ReadError, too_many_files
from ffcv_gpu.steps import IntArray

__all__ = [
    "Bundled",
    "ByteArray",
    "EpochRanges",
    "EpochReader",
    "RangeReader",
    "Reader",
    "Unscheduled",
    "open_regular",
]

ByteArray = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class EpochRanges:
    """The ranges of the file that an epoch reads, batch by batch.

    Attributes
    ----------
    batches : sequence of int64 (n,)
        Sample ids of each batch, in order.
    fields : sequence of (offsets, lengths)
        For each field that is read: the position of every sample's payload in the file, int64 each.
    in_flight : int
        Number of batches read at the same time: when batch i begins, batch i - in_flight has passed.
    """

    batches: Sequence[IntArray]
    fields: Sequence[tuple[IntArray, IntArray]]
    in_flight: int

    def flat(self) -> tuple[IntArray, IntArray]:
        """Return the samples of all batches, and for each the number of its batch; int64 (n,) each."""
        count = len(self.batches)
        ids = np.concatenate(self.batches) if count else np.zeros(0, np.int64)
        return ids, np.repeat(np.arange(count), [batch.size for batch in self.batches])


class RangeReader(Protocol):
    """Reads ranges of one file; all methods are thread-safe."""

    def locate(self, offsets: IntArray, lengths: IntArray) -> tuple[ByteArray, IntArray] | None:
        """Return read-only memory that already holds the ranges, and each range's offset in it; else None.

        The memory does not change until the batch that it was requested for has passed; without a batch, it
        never changes.

        Raises
        ------
        concurrent.futures.CancelledError
            If the epoch was closed and the batch is no longer needed.
        """

    def read_into(self, offsets: IntArray, lengths: IntArray, out: ByteArray) -> None:
        """Fill `out`, uint8 (sum of lengths,), with the ranges one after another.

        Raises
        ------
        ReadError
            If a range cannot be read in full; names file and offset.
        """

    def view(self, offset: int, length: int) -> ByteArray:
        """Return one range as read-only uint8 (length,); valid as long as it is referenced."""


class Reader(RangeReader, Protocol):
    """Reads one file, by range or in the order of an epoch."""

    def begin(self, ranges: EpochRanges) -> EpochReader:
        """Return a reader for one epoch, which knows what will be read; epochs may run concurrently."""

    def close(self) -> None:
        """Close the file; views remain valid."""


class EpochReader(Protocol):
    """A reader during one epoch."""

    def batch(self, index: int) -> RangeReader:
        """Return the reader for batch `index`."""

    def passed(self, index: int) -> None:
        """Signal that batches up to `index` no longer need the reader's memory."""

    def stop(self) -> None:
        """End all reading ahead and all waiting at once; memory already returned stays valid."""

    def close(self) -> None:
        """Release threads and memory; call it after `stop`, when no batch is being read any more."""


class Unscheduled:
    """An epoch of a reader that ignores the order."""

    def __init__(self, reader: RangeReader) -> None:
        self._reader = reader

    def batch(self, index: int) -> RangeReader:
        """Return the reader itself."""
        return self._reader

    def passed(self, index: int) -> None:
        """Nothing to do."""

    def stop(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


class Bundled:
    """An epoch of a reader whose batches are bundles: to it, batch i of the loader is ``i // size``."""

    def __init__(self, reader: EpochReader, size: int) -> None:
        self._reader, self._size = reader, size

    def batch(self, index: int) -> RangeReader:
        """Return the reader for the bundle of batch `index`."""
        return self._reader.batch(index // self._size)

    def passed(self, index: int) -> None:
        """Signal that the bundles up to batch `index` that are whole no longer need the reader's memory."""
        whole = (index + 1) // self._size
        if whole:
            self._reader.passed(whole - 1)

    def stop(self) -> None:
        """End all reading ahead and all waiting at once."""
        self._reader.stop()

    def close(self) -> None:
        """Release threads and memory."""
        self._reader.close()


def open_regular(path: str) -> tuple[int, os.stat_result]:
    """Open a file for reading; return its descriptor, which the caller closes, and its status.

    Raises
    ------
    ReadError
        If it cannot be opened, or is not a regular file.
    """
    try:
        # O_NONBLOCK: opening a pipe would wait for a writer.
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ReadError(f"cannot read {path}: {error.strerror}{too_many_files(error)}") from error
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        os.close(file)
        what = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
        raise ReadError(f"cannot read {path}: not a regular file") from OSError(what, os.strerror(what))
    return file, status
