"""Reads a remote file: its blocks are fetched first, then another reader reads the local copy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ffcv_gpu.readers.base import ByteArray, EpochRanges, EpochReader, RangeReader, Reader
from ffcv_gpu.readers.remote.file import RemoteFile
from ffcv_gpu.readers.remote.schedule import Plan
from ffcv_gpu.steps import IntArray

__all__ = ["MirroredReader"]


class _Brought:
    """Reads ranges of the copy after fetching them; `ended` cancels the wait, see `RemoteFile.bring`."""

    def __init__(
        self, file: RemoteFile, copy: RangeReader, ended: Callable[[], bool] = lambda: False
    ) -> None:
        self._file, self._copy, self._ended = file, copy, ended

    def _bring(self, offsets: IntArray, lengths: IntArray) -> None:
        self._file.bring(offsets, lengths, self._ended)

    def locate(self, offsets: IntArray, lengths: IntArray) -> tuple[ByteArray, IntArray] | None:
        """Return the copy's memory and the offsets in it."""
        self._bring(offsets, lengths)
        return self._copy.locate(offsets, lengths)

    def read_into(self, offsets: IntArray, lengths: IntArray, out: ByteArray) -> None:
        """Copy the ranges one after another into `out`."""
        self._bring(offsets, lengths)
        self._copy.read_into(offsets, lengths, out)

    def view(self, offset: int, length: int) -> ByteArray:
        """Return one range."""
        self._bring(np.array([offset]), np.array([length]))
        return self._copy.view(offset, length)


class MirroredReader(_Brought):
    """A reader of a remote file.

    Parameters
    ----------
    file : RemoteFile
    copy : Reader
        A reader of ``file.path``.
    """

    def __init__(self, file: RemoteFile, copy: Reader) -> None:
        super().__init__(file, copy)
        self._reader = copy

    def begin(self, ranges: EpochRanges) -> EpochReader:
        """Return a reader that fetches ahead in the epoch's order; the copy's own if nothing is missing."""
        self._file.downloads.retry()
        copy, plan = self._reader.begin(ranges), self._file.plan(ranges)
        return copy if plan.done else MirroredEpoch(self._file, copy, plan)

    def close(self) -> None:
        """Close the copy's reader; what was fetched stays on the disk."""
        self._reader.close()


class MirroredEpoch:
    """An epoch for which blocks must be fetched; fetching begins with the first batch that is read."""

    def __init__(self, file: RemoteFile, copy: EpochReader, plan: Plan) -> None:
        self._file, self._copy, self._plan, self._ended = file, copy, plan, False

    def batch(self, index: int) -> RangeReader:
        """Return the reader for batch `index`."""
        self._file.downloads.ask(self._plan, index)
        return _Brought(self._file, self._copy.batch(index), lambda: self._ended)

    def passed(self, index: int) -> None:
        """Tell the copy's reader."""
        self._copy.passed(index)

    def stop(self) -> None:
        """End fetching ahead and all waiting."""
        self._ended = True
        self._file.downloads.drop(self._plan)
        self._copy.stop()

    def close(self) -> None:
        """Tell the copy's reader; running requests end by themselves."""
        self._copy.close()
