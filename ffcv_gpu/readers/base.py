"""What the loader asks of a reader: bytes by offset and length; and what it tells it of an epoch."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import ReadError
from ffcv_gpu.steps import IntArray

__all__ = [
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
        For each field that is read: where the payload of every sample of the file lies, int64 each.
    in_flight : int
        Batches that are read at the same time: when batch i is begun, batch i - in_flight has passed.
    """

    batches: Sequence[IntArray]
    fields: Sequence[tuple[IntArray, IntArray]]
    in_flight: int


class RangeReader(Protocol):
    """Reads ranges of one file; every method may be called from any thread."""

    def locate(self, offsets: IntArray, lengths: IntArray) -> tuple[ByteArray, IntArray] | None:
        """Return memory that holds the ranges already, read-only, and where in it each begins; else None.

        It stays as it is until the batch that it was asked for has passed; without a batch, for good.

        Raises
        ------
        concurrent.futures.CancelledError
            If the epoch has been closed; nobody wants the batch any more.
        """

    def read_into(self, offsets: IntArray, lengths: IntArray, out: ByteArray) -> None:
        """Fill `out`, uint8 (sum of lengths,), with the ranges one behind the other.

        Raises
        ------
        ReadError
            If a range cannot be read in full; names file and offset.
        """

    def view(self, offset: int, length: int) -> ByteArray:
        """Return one range as read-only uint8 (length,); valid as long as it is referenced."""


class Reader(RangeReader, Protocol):
    """Reads one file, also along the order of an epoch."""

    def begin(self, ranges: EpochRanges) -> EpochReader:
        """Return a reader for one epoch, which knows what will be read; epochs may run side by side."""

    def close(self) -> None:
        """Release the file; views handed out stay valid."""


class EpochReader(Protocol):
    """A reader during one epoch."""

    def batch(self, index: int) -> RangeReader:
        """Return what batch `index` is read with."""

    def passed(self, index: int) -> None:
        """Say that batches up to `index` need no memory of the reader any more."""

    def stop(self) -> None:
        """End all reading ahead and all waiting, at once; memory handed out stays valid."""

    def close(self) -> None:
        """Give back threads and memory, after `stop` and when no batch is being read any more."""


class Unscheduled:
    """An epoch of a reader that has no use for its order."""

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


def open_regular(path: str) -> tuple[int, os.stat_result]:
    """Open a file for reading; return its descriptor, which the caller closes, and its status.

    Raises
    ------
    ReadError
        If it cannot be opened, or is no regular file.
    """
    try:
        # A pipe would wait for somebody who writes into it.
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ReadError(f"cannot read {path}: {error}") from error
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        os.close(file)
        raise ReadError(f"cannot read {path}: not a regular file")
    return file, status
