"""JPEG decoding on the CPU, only the needed part of each image, by libjpeg-turbo 3, which can crop.

Pixels equal those of the whole decoded image, byte for byte. Some damage that decoding the whole image
reveals goes unnoticed, even if it affects pixels of the rectangle: most damage shows only at the end of the
scan (too few or too many bytes), which is below the rectangle and is never read. The checksums of our own
files detect all of it; plain FFCV files have none, and are decoded this way only on request.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.jpeg.base import ByteArray, Capabilities, Decoded, Encoded, Fault, File, Finished
from ffcv_gpu.jpeg.turbo import TurboBackend
from ffcv_gpu.native import turbojpeg3
from ffcv_gpu.steps import IntArray

__all__ = ["Turbo3Backend"]


class Turbo3Backend:
    """Decodes in the calling thread; only the rectangles in `Encoded.boxes`, if given.

    Images that the library refuses (damaged ones and CMYK) are passed to `TurboBackend`, whose result counts.
    So statuses and messages do not depend on which of the two backends is used, except that this one also
    decodes rare chroma samplings (4:1:0).

    Parameters
    ----------
    dct : {"accurate", "fast"}
        See `TurboBackend`, which produces the same pixels.

    Raises
    ------
    PipelineError
        If `dct` is neither.
    BackendUnavailable
        If there is no libturbojpeg 3.
    """

    name = "turbo3"
    capabilities = Capabilities(roi=True)

    def __init__(self, dct: str = "accurate") -> None:
        self._library, self._fast, self._whole = turbojpeg3.required(), int(dct == "fast"), TurboBackend(dct)

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
                raise PipelineError("turbo3: an image does not fit into its memory")
            y, x, rows, columns = box or (0, 0, height, width)
            row = data.ctypes.data, data.size, memory.ctypes.data, height, width, y, x, y + rows, x + columns
            if self._refused([row]).size:
                faults |= self._whole.decode_files([file])
        return faults

    def _refused(self, rows: Sequence[Sequence[int]] | IntArray) -> npt.NDArray[np.intp]:
        """Decode, without the GIL; return which images the library refuses. `rows`: see `decode`."""
        from ffcv_gpu.kernels.jpeg_turbo_cpu import NO_MEMORY, decode

        table = np.asarray(rows, np.int64)
        outcome = np.zeros(len(table), np.int8)
        decode(self._functions, table, self._fast, outcome)
        refused = np.flatnonzero(outcome)
        if refused.size and (outcome == NO_MEMORY).any():
            raise MemoryError("libturbojpeg: no memory for a decoder")
        return refused

    @cached_property
    def _functions(self) -> IntArray:
        from ffcv_gpu.kernels.jpeg_turbo_cpu import FUNCTIONS

        return np.array(self._library.addresses(FUNCTIONS), np.int64)


def _rows(encoded: Encoded, arena: ByteArray, offsets: IntArray) -> IntArray:
    """Return `decode`'s rows; no address points outside `encoded.stored` or `arena`."""
    stored, heights, widths = encoded.stored, encoded.heights, encoded.widths
    starts = np.clip(encoded.offsets, 0, stored.size)
    stops = np.clip(encoded.offsets + encoded.lengths, starts, stored.size)
    if offsets.size and ((offsets < 0).any() or (offsets + 3 * heights * widths > arena.size).any()):
        raise PipelineError("turbo3: an image does not fit into the arena")
    part: list[Any] = [0, 0, heights, widths]
    if encoded.boxes is not None:
        y, x, box_heights, box_widths = encoded.boxes.T.astype(np.int64)
        bottoms, rights = np.minimum(y + box_heights, heights), np.minimum(x + box_widths, widths)
        part = [np.maximum(y, 0), np.maximum(x, 0), bottoms, rights]
    table = np.empty((offsets.size, 9), np.int64)
    columns = [
        stored.ctypes.data + starts,
        stops - starts,
        arena.ctypes.data + offsets,
        heights,
        widths,
        *part,
    ]
    for column, values in enumerate(columns):
        table[:, column] = values
    return table
