"""Reads each range by `pread` into the caller's memory: for ranges that are in no page of the cache."""

from __future__ import annotations

import os
import weakref

import numpy as np

from ffcv_gpu.errors import ReadError
from ffcv_gpu.readers.base import ByteArray, EpochRanges, Unscheduled, open_regular
from ffcv_gpu.steps import IntArray

__all__ = ["PositionedReader"]


class PositionedReader:
    """Reads each range with `pread`; partial reads are continued, the end of the file is an error.

    Parameters
    ----------
    path : str

    Raises
    ------
    ReadError
        If the file cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file, status = open_regular(path)
        self._close = weakref.finalize(self, os.close, self._file)
        self._size = status.st_size

    @property
    def descriptor(self) -> int:
        """The descriptor of the open file, which other readers may use."""
        return self._file

    def locate(self, offsets: IntArray, lengths: IntArray) -> None:
        """Return None: no part of the file is kept in memory."""

    def read_into(self, offsets: IntArray, lengths: IntArray, out: ByteArray) -> None:
        """Fill `out` with the ranges one after another."""
        view, at = out.data, 0
        for offset, length in zip(offsets.tolist(), lengths.tolist(), strict=True):
            self._read_range(offset, view[at : at + length])
            at += length

    def _read_range(self, offset: int, target: memoryview) -> None:
        done = 0
        while done < len(target):
            try:
                got = os.preadv(self._file, [target[done:]], offset + done)
            except OSError as error:
                raise ReadError(
                    f"{self._path}: cannot read {len(target)} bytes at {offset}: {error}"
                ) from error
            if got == 0:
                raise ReadError(
                    f"{self._path} ends at byte {offset + done}, inside a payload of {len(target)} bytes at "
                    f"{offset}; was the file truncated after it was opened?"
                )
            done += got

    def view(self, offset: int, length: int) -> ByteArray:
        """Return one range in newly allocated memory; `ReadError` if it is outside the file as opened."""
        if offset < 0 or length < 0 or offset + length > self._size:
            raise ReadError(
                f"{self._path}: bytes {offset} to {offset + length} are outside the file ({self._size} bytes)"
            )
        out = np.empty(length, np.uint8)
        self._read_range(offset, out.data)
        out.flags.writeable = False
        return out

    def begin(self, ranges: EpochRanges) -> Unscheduled:
        """Return an epoch of this reader that reads nothing ahead."""
        return Unscheduled(self)

    def close(self) -> None:
        """Close the file; later reads fail, even if another file gets the same descriptor."""
        self._close()
        self._file = -1
