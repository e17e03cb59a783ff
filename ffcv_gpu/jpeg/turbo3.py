"""JPEG decoding on the CPU, only the needed part of each image, by libjpeg-turbo 3, which can crop.

Pixels equal those of the whole decoded image, byte for byte. Some damage that decoding the whole image
reveals goes unnoticed, even if it affects pixels of the rectangle: most damage shows only at the end of the
scan (too few or too many bytes), which is below the rectangle and is never read. The checksums of our own
files detect all of it; plain FFCV files have none, and are decoded this way only on request.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.jpeg.base import ByteArray, Capabilities, Decoded, Encoded, Fault, File, Finished
from ffcv_gpu.jpeg.turbo import TurboBackend
from ffcv_gpu.native import turbojpeg3
from ffcv_gpu.native.turbojpeg3 import MCU_WIDTHS, Decompressor
from ffcv_gpu.steps import IntArray

__all__ = ["Turbo3Backend"]

#: `_decode`'s arguments: address, size in bytes, address of the pixels, height, width, y, x, bottom, right
Row = tuple[int, int, int, int, int, int, int, int, int]


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
        self._library, self._fast, self._whole = turbojpeg3.required(), dct == "fast", TurboBackend(dct)

    def submit(self, encoded: Encoded, arena: ByteArray, offsets: IntArray) -> Finished:
        """Decode now; see `JpegBackend.submit`. Memory outside a rectangle may be overwritten."""
        # The one loop over samples: libjpeg-turbo has no batched call.
        rows = enumerate(_rows(encoded, arena, offsets))
        refused = [i for i, row in rows if not _decode(self._library, self._fast, *row)]
        status = np.zeros(encoded.offsets.size, np.int8)
        if not refused:
            return Finished(Decoded(status))
        columns = encoded.offsets, encoded.lengths, encoded.heights, encoded.widths
        rest = Encoded(encoded.stored, *(column[refused] for column in columns))
        outcome = self._whole.submit(rest, arena, offsets[refused]).wait()
        status[refused] = outcome.status
        return Finished(Decoded(status, {refused[i]: words for i, words in outcome.reasons.items()}))

    def decode_files(self, files: Iterable[File]) -> dict[int, Fault]:
        """Decode files, or rectangles of them; see `FileBackend`."""
        faults: dict[int, Fault] = {}
        for file in files:
            _, data, memory, height, width, box = file
            if memory.size < 3 * height * width:
                raise PipelineError("turbo3: an image does not fit into its memory")
            y, x, rows, columns = box or (0, 0, height, width)
            row = data.ctypes.data, data.size, memory.ctypes.data, height, width, y, x, y + rows, x + columns
            if not _decode(self._library, self._fast, *row):
                faults |= self._whole.decode_files([file])
        return faults


def _rows(encoded: Encoded, arena: ByteArray, offsets: IntArray) -> Iterator[Row]:
    """Yield `_decode`'s arguments per image; no address points outside `encoded.stored` or `arena`."""
    stored, heights, widths = encoded.stored, encoded.heights, encoded.widths
    starts = np.clip(encoded.offsets, 0, stored.size)
    stops = np.clip(encoded.offsets + encoded.lengths, starts, stored.size)
    if offsets.size and ((offsets < 0).any() or (offsets + 3 * heights * widths > arena.size).any()):
        raise PipelineError("turbo3: an image does not fit into the arena")
    if encoded.boxes is None:
        zeros = np.zeros_like(heights)
        columns = [zeros, zeros, heights, widths]
    else:
        y, x, box_heights, box_widths = encoded.boxes.T.astype(np.int64)
        bottoms, rights = np.minimum(y + box_heights, heights), np.minimum(x + box_widths, widths)
        columns = [np.maximum(y, 0), np.maximum(x, 0), bottoms, rights]
    base, to = stored.ctypes.data, arena.ctypes.data
    all_columns = [base + starts, stops - starts, to + offsets, heights, widths, *columns]
    return zip(*(column.tolist() for column in all_columns), strict=True)


def _decode(
    library: turbojpeg3.Library, fast: bool, address: int, size: int, to: int, height: int, width: int,
    y: int, x: int, bottom: int, right: int,
) -> bool:  # fmt: skip
    """Decode rows [y, bottom) and columns [x, right) of an image to their position in the whole image."""
    decompressor = Decompressor(library, fast)
    try:
        header = decompressor.header(address, size)
        if header is None or header[:2] != (height, width):
            return False
        y, x, bottom, right = _decodable(header[2], height, width, y, x, bottom, right)
        whole = bottom - y == height and right - x == width
        if not whole and decompressor.crop(y, x, bottom - y, right - x):
            to += 3 * (y * width + x)
        return decompressor.decode(address, size, to, 3 * width)
    finally:
        decompressor.close()


def _decodable(
    subsampling: int, height: int, width: int, y: int, x: int, bottom: int, right: int
) -> tuple[int, int, int, int]:
    """Return the smallest part to decode so that rows [y, bottom) and columns [x, right) are right."""
    if not 0 <= subsampling < len(MCU_WIDTHS):  # unknown: where a part may begin is unknown, too
        return 0, 0, height, width
    unit = MCU_WIDTHS[subsampling]
    if unit > 8:
        # Chroma is interpolated between neighbours, except at the edges of the decoded part. So these edges
        # must be outside the rectangle.
        x, right = max(x - 1, 0), min(right + 2, width)
    x -= x % unit
    if unit > 8 and right - x < 3:
        # One column of chroma: libjpeg would no longer interpolate between its rows, either.
        x = max(x - unit, 0)
    return y, x, bottom, right
