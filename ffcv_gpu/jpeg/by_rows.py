"""Decodes only the rows that crops need, of JPEGs with an index of their rows (`row_index`).

The rows of MCUs (blocks of all components) that a crop touches are put together as a JPEG of their own, which
any decoder takes. All other rows are neither decoded nor computed, except one of empty blocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ffcv_gpu.format import JpegFlag
from ffcv_gpu.jpeg.base import (
    ByteArray,
    Decoded,
    Encoded,
    File,
    FileBackend,
    Finished,
    JpegBackend,
)
from ffcv_gpu.steps import IntArray

__all__ = ["ByRows", "HostBackend", "cut_rows"]

#: memory that is allocated at once: for some twenty JPEGs of 110 kB
_LEAST_BYTES = 1 << 21


class HostBackend(JpegBackend, FileBackend, Protocol):
    """A backend on the CPU."""


class _Cut(NamedTuple):
    """JPEGs of some rows: of which images, where in `memory`, and which pixel rows they have."""

    images: IntArray
    memory: ByteArray
    begins: IntArray
    lengths: IntArray
    firsts: IntArray
    rows: IntArray

    def files(self, encoded: Encoded, arena: ByteArray, offsets: IntArray) -> Iterator[File]:
        """Yield the files to decode; their pixels go where they are in the whole images."""
        assert encoded.boxes is not None
        widths = encoded.widths[self.images]
        places = offsets[self.images] + 3 * widths * self.firsts
        boxes = encoded.boxes[self.images].tolist()
        columns = (self.images, self.begins, self.lengths, self.firsts, self.rows, widths, places)
        rows = zip(*(column.tolist() for column in columns), boxes, strict=True)
        for image, begin, length, first, count, width, place, (y, x, height, across) in rows:
            data, pixels = self.memory[begin : begin + length], arena[place : place + 3 * width * count]
            yield image, data, pixels, count, width, (y - first, x, height, across)


class ByRows:
    """Decodes with another backend: images with an index only where their boxes are, the others as it does.

    Thread-safe if the backend is. An image whose rows cannot be decoded is decoded whole, and that result
    counts.
    """

    def __init__(self, backend: HostBackend) -> None:
        self._backend = backend
        self.name = backend.name
        self.capabilities = replace(backend.capabilities, roi=True)
        self._idle: deque[ByteArray] = deque()

    def submit(self, encoded: Encoded, arena: ByteArray, offsets: IntArray) -> Finished:
        """Decode now; see `JpegBackend.submit`. Memory outside a box may be overwritten."""
        done = np.zeros(encoded.offsets.size, np.bool_)
        with self._cut(encoded) as cut:
            if cut is not None:
                faults = self._backend.decode_files(cut.files(encoded, arena, offsets))
                done[cut.images] = True
                done[list(faults)] = False
        if done.all():
            return Finished(Decoded(np.zeros(done.size, np.int8)))
        return self._others(encoded, arena, offsets, np.flatnonzero(~done))

    def _others(self, encoded: Encoded, arena: ByteArray, offsets: IntArray, which: IntArray) -> Finished:
        taken: dict[str, Any] = {n: c for n, c in vars(encoded).items() if n != "stored" and c is not None}
        taken = {name: column[which] for name, column in taken.items()}
        outcome = self._backend.submit(replace(encoded, **taken), arena, offsets[which]).wait()
        status = np.zeros(encoded.offsets.size, np.int8)
        status[which] = outcome.status
        return Finished(Decoded(status, {int(which[i]): words for i, words in outcome.reasons.items()}))

    @contextmanager
    def _cut(self, encoded: Encoded) -> Iterator[_Cut | None]:
        """Cut what has an index and a box; the memory is reused afterwards."""
        if encoded.boxes is None or encoded.facts is None:
            yield None
            return
        which = np.flatnonzero(encoded.facts["flags"] & int(JpegFlag.ROW_INDEX))
        lengths = encoded.lengths[which]
        memory = self._memory(int(lengths.sum()))
        try:
            yield _cut(encoded, which, lengths, memory)
        finally:
            self._idle.append(memory)

    def _memory(self, size: int) -> ByteArray:
        try:
            memory = self._idle.pop()
        except IndexError:
            memory = np.empty(0, np.uint8)
        return memory if memory.size >= size else np.empty(max(size, _LEAST_BYTES), np.uint8)


def _cut(encoded: Encoded, which: IntArray, lengths: IntArray, memory: ByteArray) -> _Cut:
    assert encoded.boxes is not None
    begins = np.cumsum(lengths) - lengths
    where = encoded.offsets[which], lengths, encoded.boxes[which], encoded.heights[which]
    lengths, firsts, rows = cut_rows(encoded.stored, *where, memory, begins)
    fine = lengths > 0
    return _Cut(which[fine], memory, begins[fine], lengths[fine], firsts[fine], rows[fine])


def cut_rows(
    stored: ByteArray, offsets: IntArray, lengths: IntArray, boxes: IntArray, heights: IntArray,
    out: ByteArray, begins: IntArray, *, whole: bool = False,
) -> tuple[IntArray, IntArray, IntArray]:  # fmt: skip
    """Write JPEGs of the rows that `boxes` need to ``out[begins[i]:]``, where an image has an index.

    Each takes at most its own `lengths`. Without the GIL.

    Parameters
    ----------
    stored, offsets, lengths, boxes, heights
        As in `Encoded`.
    out : uint8 (bytes,)
    begins : int64 (n,)
    whole : bool, keyword only
        Copy those that are to be decoded whole.

    Returns
    -------
    lengths, firsts, rows : int64 (n,)
        Bytes of each new JPEG (0: nothing was written), its first pixel row in the image, and its height. The
        pixels that `boxes` need are right; those above them may be of the empty row.
    """
    from ffcv_gpu.kernels import jpeg_cut

    found: npt.NDArray[np.int64] = np.zeros((offsets.size, jpeg_cut.CUT_COLUMNS), np.int64)
    columns = (np.ascontiguousarray(column, np.int64) for column in (offsets, lengths, boxes, heights))
    jpeg_cut.cut(stored, *columns, whole, out, begins, np.empty(jpeg_cut.MEMORY, np.int64), found)
    new_lengths, firsts, rows = np.ascontiguousarray(found.T)
    return new_lengths, firsts, rows
