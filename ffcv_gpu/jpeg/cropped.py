"""Decodes only what crops need of JPEGs with an index for crops (`crop_index`).

The MCUs (blocks of all components) that a crop touches are put together as a JPEG of their own, which any
decoder takes. All others are neither decoded nor computed, except some empty ones.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ffcv_gpu.format import JpegFlag
from ffcv_gpu.jpeg.base import (
    Box,
    ByteArray,
    Decoded,
    DecodeStatus,
    Encoded,
    Finished,
    JpegBackend,
    Ticket,
)
from ffcv_gpu.steps import IntArray

__all__ = ["Cropped", "cut_crop", "cut_crops", "spread"]

#: memory that is allocated at once: for some twenty JPEGs of 110 kB
_LEAST_BYTES = 1 << 21


class _Cut(NamedTuple):
    """JPEGs of parts of images: of which images, where in `memory`, and which pixels they have.

    `windows`: y, x, height, width in the whole image.
    """

    images: IntArray
    memory: ByteArray
    begins: IntArray
    lengths: IntArray
    windows: IntArray

    def encoded(self, boxes: IntArray) -> Encoded:
        """Return them as images of one call; `boxes`: those of all images, in the whole ones."""
        wanted = boxes[self.images].astype(np.int64)
        wanted[:, :2] -= self.windows[:, :2]
        heights, widths = self.windows[:, 2], self.windows[:, 3]
        return Encoded(self.memory, self.begins, self.lengths, heights, widths, boxes=wanted)


class Cropped:
    """Decodes with another backend: images with an index only where their boxes are, the others as it does.

    Thread-safe if the backend is. An image of which no part can be decoded is decoded whole, and that result
    counts.
    """

    def __init__(self, backend: JpegBackend) -> None:
        self._backend = backend
        self.name = backend.name
        self.capabilities = replace(backend.capabilities, roi=True)
        self._idle: deque[ByteArray] = deque()

    def submit(self, encoded: Encoded, arena: ByteArray, offsets: IntArray) -> Ticket:
        """Decode now; see `JpegBackend.submit`. Memory outside a box may be overwritten."""
        if encoded.boxes is None or encoded.facts is None:
            return self._backend.submit(encoded, arena, offsets)
        count = encoded.offsets.size
        status = np.zeros(count, np.int8)
        cut, parts = self._decode_cut(encoded, arena, offsets)
        if cut.size == count:
            return Finished(Decoded(status, windows=parts))
        windows, rest = np.zeros((count, 4), np.int64), np.delete(np.arange(count), cut)
        windows[:, 2], windows[:, 3] = encoded.heights, encoded.widths
        windows[cut] = parts
        taken: dict[str, Any] = {n: c for n, c in vars(encoded).items() if n != "stored" and c is not None}
        taken = {name: column[rest] for name, column in taken.items()}
        outcome = self._backend.submit(replace(encoded, **taken), arena, offsets[rest]).wait()
        status[rest] = outcome.status
        reasons = {int(rest[i]): words for i, words in outcome.reasons.items()}
        return Finished(Decoded(status, reasons, windows=windows))

    def _decode_cut(self, encoded: Encoded, arena: ByteArray, offsets: IntArray) -> tuple[IntArray, IntArray]:
        """Decode what boxes need of images with an index; return which images, and which parts of them."""
        assert encoded.facts is not None and encoded.boxes is not None
        which = np.flatnonzero(encoded.facts["flags"] & int(JpegFlag.CROP_INDEX))
        lengths = encoded.lengths[which]
        memory = self._memory(int(lengths.sum()))
        cut = _cut(encoded, which, lengths, memory)
        outcome = self._backend.submit(cut.encoded(encoded.boxes), arena, offsets[cut.images]).wait()
        self._idle.append(memory)
        fine = outcome.status == DecodeStatus.GOOD
        return cut.images[fine], cut.windows[fine]

    def _memory(self, size: int) -> ByteArray:
        try:
            memory = self._idle.pop()
        except IndexError:
            memory = np.empty(0, np.uint8)
        return memory if memory.size >= size else np.empty(max(size, _LEAST_BYTES), np.uint8)


def _cut(encoded: Encoded, which: IntArray, lengths: IntArray, memory: ByteArray) -> _Cut:
    assert encoded.boxes is not None
    begins = np.cumsum(lengths) - lengths
    sizes = encoded.heights[which], encoded.widths[which]
    where = encoded.offsets[which], lengths, encoded.boxes[which], *sizes
    lengths, windows = cut_crops(encoded.stored, *where, memory, begins)
    fine = lengths > 0
    return _Cut(which[fine], memory, begins[fine], lengths[fine], windows[fine])


def spread(decoded: Decoded, encoded: Encoded, arena: ByteArray, offsets: IntArray) -> None:
    """Move the pixels of `Encoded.boxes` from `Decoded.windows` to where they are in the whole images."""
    if decoded.windows is None:
        return
    from ffcv_gpu.kernels.copy_cpu import spread_windows

    assert encoded.boxes is not None
    fine = np.flatnonzero(decoded.status == DecodeStatus.GOOD)
    boxes, pitches = encoded.boxes[fine].astype(np.int64), 3 * encoded.widths[fine]
    spread_windows(arena, offsets[fine], boxes, decoded.windows[fine], pitches, 3)


def cut_crops(
    stored: ByteArray, offsets: IntArray, lengths: IntArray, boxes: IntArray, heights: IntArray,
    widths: IntArray, out: ByteArray, begins: IntArray, *, whole: bool = False,
) -> tuple[IntArray, IntArray]:  # fmt: skip
    """Write JPEGs of what `boxes` need to ``out[begins[i]:]``, where an image has an index.

    Each takes at most its own `lengths`. Without the GIL.

    Parameters
    ----------
    stored, offsets, lengths, boxes, heights, widths
        As in `Encoded`.
    out : uint8 (bytes,)
    begins : int64 (n,)
    whole : bool, keyword only
        Copy those that are to be decoded whole.

    Returns
    -------
    lengths : int64 (n,)
        Bytes of each new JPEG; 0: nothing was written.
    windows : int64 (n, 4)
        y, x, height, width of its pixels in the image. Those that `boxes` need are right.
    """
    from ffcv_gpu.kernels import jpeg_cut

    found: npt.NDArray[np.int64] = np.zeros((offsets.size, jpeg_cut.CUT_COLUMNS), np.int64)
    given = (np.ascontiguousarray(each, np.int64) for each in (offsets, lengths, boxes, heights, widths))
    memory = np.empty(jpeg_cut.MEMORY, np.int64)
    jpeg_cut.cut(stored, *given, whole, out, begins, memory, found)
    return found[:, 0].copy(), found[:, 1:].copy()


def cut_crop(
    data: ByteArray, height: int, width: int, box: Box, memory: ByteArray
) -> tuple[ByteArray, Box] | None:
    """Return a JPEG of what a box needs, in `memory`, and which pixels it has (y, x, height, width).

    None if the whole JPEG is needed, or has no index that fits. `memory`, uint8 (n,), is as large as `data`.
    """
    stored = data.view()
    stored.flags.writeable = False  # as a Loader's: the kernel is compiled for one kind of array
    one = np.array([[0], [data.size], [height], [width]])
    lengths, windows = cut_crops(stored, one[0], one[1], np.array([box]), one[2], one[3], memory, one[0])
    y, x, rows, columns = windows[0].tolist()
    return (memory[: lengths[0]], (y, x, rows, columns)) if lengths[0] else None
