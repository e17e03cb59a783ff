"""What the backends of the machine's libturbojpeg share: all images of a call are decoded without the GIL."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.jpeg.base import ByteArray, Decoded, Encoded, Fault, File, Finished
from ffcv_gpu.jpeg.turbo import TurboBackend
from ffcv_gpu.steps import IntArray

__all__ = ["Addresses", "OneCall", "Rows"]

#: int64: where functions are in memory
Addresses = npt.NDArray[np.int64]
#: int64 (n, 9); see `ffcv_gpu.kernels.jpeg_turbo_cpu`
Rows = npt.NDArray[np.int64]


class OneCall(ABC):
    """Decodes in the calling thread, by compiled code that calls the library for one image after the other.

    Images that the library refuses (damaged ones and CMYK) are passed to `TurboBackend`, whose result counts.
    So statuses and messages do not depend on the backend.

    Parameters
    ----------
    dct : {"accurate", "fast"}
        See `TurboBackend`, which produces the same pixels.

    Raises
    ------
    PipelineError
        If `dct` is neither.
    """

    def __init__(self, dct: str = "accurate") -> None:
        self._whole, self._fast = TurboBackend(dct), int(dct == "fast")

    @abstractmethod
    def _decode(self, rows: Rows, outcome: npt.NDArray[np.int8]) -> None:
        """Decode; `outcome` is that of `ffcv_gpu.kernels.jpeg_turbo_cpu`."""

    def submit(self, encoded: Encoded, arena: ByteArray, offsets: IntArray) -> Finished:
        """Decode now; see `JpegBackend.submit`. Memory outside a rectangle may be overwritten."""
        refused = self._refused(_rows(encoded, arena, offsets))
        status = np.zeros(encoded.offsets.size, np.int8)
        if not refused.size:
            return Finished(Decoded(status))
        columns = encoded.offsets, encoded.lengths, encoded.heights, encoded.widths
        rest = Encoded(encoded.stored, *(column[refused] for column in columns))
        outcome = self._whole.submit(rest, arena, offsets[refused]).wait()
        status[refused] = outcome.status
        return Finished(Decoded(status, {int(refused[i]): words for i, words in outcome.reasons.items()}))

    def decode_files(self, files: Iterable[File]) -> dict[int, Fault]:
        """Decode files, or rectangles of them; see `FileBackend`."""
        faults: dict[int, Fault] = {}
        for file in files:
            _, data, memory, height, width, box = file
            if memory.size < 3 * height * width:
                raise PipelineError(f"{type(self).__name__}: an image does not fit into its memory")
            y, x, rows, columns = box or (0, 0, height, width)
            row = data.ctypes.data, data.size, memory.ctypes.data, height, width, y, x, y + rows, x + columns
            if self._refused([row]).size:
                faults |= self._whole.decode_files([file])
        return faults

    def _refused(self, rows: Sequence[Sequence[int]] | Rows) -> npt.NDArray[np.intp]:
        """Decode; return which images the library refuses."""
        from ffcv_gpu.kernels.jpeg_turbo_cpu import NO_MEMORY

        table = np.asarray(rows, np.int64)
        outcome = np.zeros(len(table), np.int8)
        self._decode(table, outcome)
        refused = np.flatnonzero(outcome)
        if refused.size and (outcome == NO_MEMORY).any():
            raise MemoryError("libturbojpeg: no memory for a decoder")
        return refused


def _rows(encoded: Encoded, arena: ByteArray, offsets: IntArray) -> Rows:
    """Return a row per image; no address points outside `encoded.stored` or `arena`."""
    stored, heights, widths = encoded.stored, encoded.heights, encoded.widths
    starts = np.clip(encoded.offsets, 0, stored.size)
    stops = np.clip(encoded.offsets + encoded.lengths, starts, stored.size)
    if offsets.size and ((offsets < 0).any() or (offsets + 3 * heights * widths > arena.size).any()):
        raise PipelineError("libturbojpeg: an image does not fit into the arena")
    part: list[Any] = [0, 0, heights, widths]
    if encoded.boxes is not None:
        y, x, box_heights, box_widths = encoded.boxes.T.astype(np.int64)
        bottoms, rights = np.minimum(y + box_heights, heights), np.minimum(x + box_widths, widths)
        part = [np.maximum(y, 0), np.maximum(x, 0), bottoms, rights]
    table, from_, to = np.empty((offsets.size, 9), np.int64), stored.ctypes.data, arena.ctypes.data
    for column, values in enumerate([from_ + starts, stops - starts, to + offsets, heights, widths, *part]):
        table[:, column] = values
    return table
