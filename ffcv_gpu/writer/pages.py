"""Where samples go in the file: one after another, none across the end of a page."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ffcv_gpu.format import align_up

__all__ = ["Pages", "Run"]


class Run(NamedTuple):
    """Bytes that are contiguous both in a slot and in the file."""

    start: int
    stop: int
    offset: int


class Pages:
    """Assigns places in order; the same samples get the same places, however they are split into calls.

    Parameters
    ----------
    data_offset : int
        First byte of the first page.
    page_size : int
    """

    def __init__(self, data_offset: int, page_size: int) -> None:
        self._page_size = page_size
        self.begin = data_offset
        #: first byte that is still free; may be reset to an earlier value
        self.cursor = data_offset

    @property
    def end(self) -> int | None:
        """First byte behind the last page; None without pages."""
        return align_up(self.cursor, self._page_size) if self.cursor > self.begin else None

    def reserve(self, size_bytes: int) -> int:
        """Return where `size_bytes` of another file's pages go: at the start of a page."""
        begin = align_up(self.cursor, self._page_size)
        self.cursor = begin + size_bytes
        return begin

    def place(self, bounds: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], list[Run]]:
        """Return where n samples go, and which bytes to copy.

        Parameters
        ----------
        bounds : int64, shape (n + 1,)
            Sample k's payloads are bytes bounds[k] to bounds[k + 1] of a slot, at most one page.

        Returns
        -------
        offsets : int64, shape (n,)
            File offset of each sample's first byte.
        runs : list of Run
        """
        count = len(bounds) - 1
        offsets = np.empty(count, np.int64)
        runs: list[Run] = []
        first = 0
        while first < count:
            room = self._page_size - self.cursor % self._page_size
            start = int(bounds[first])
            last = int(np.searchsorted(bounds, start + room, "right")) - 1
            if last == first:
                self.cursor += room
                continue
            stop = int(bounds[last])
            offsets[first:last] = bounds[first:last] + (self.cursor - start)
            if stop > start:
                runs.append(Run(start, stop, self.cursor))
            self.cursor += stop - start
            first = last
        return offsets, runs
