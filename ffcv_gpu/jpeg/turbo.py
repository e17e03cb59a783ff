"""JPEG decoding on the CPU by simplejpeg's libjpeg-turbo, into the caller's memory, without the GIL."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import numpy as np
import simplejpeg

from ffcv_gpu.errors import DecodeError, PipelineError
from ffcv_gpu.jpeg.base import (
    NO_MEMORY,
    UNNAMED_CHROMA,
    ByteArray,
    Capabilities,
    Decoded,
    DecodeStatus,
    Encoded,
    Fault,
    File,
    Finished,
)
from ffcv_gpu.jpeg.facts import scan_jpeg
from ffcv_gpu.steps import IntArray

__all__ = ["TurboBackend"]

#: what libjpeg says of kinds of JPEG that it cannot decode (12 bits, lossless); "Unsupported marker
#: type" it says of damaged ones: one wrong bit in the scan suffices
_UNSUPPORTED = ("Unsupported JPEG", "Unsupported color", "not implemented")
#: libjpeg's JPEG_MAX_DIMENSION; `UNNAMED_CHROMA` is what it says of larger images, too
_MAX_SIDE = 65_500
#: what simplejpeg says of an image that does not fit into the memory for one of the recorded size
_TOO_LARGE = "buffer is too small"
#: samplings for which `UNNAMED_CHROMA` may be true: 4:1:0, and those that nvJPEG has no number for either
_RARE_CHROMA = (5, -1)


class TurboBackend:
    """Decodes in the calling thread.

    Parameters
    ----------
    dct : {"accurate", "fast"}
        ``"accurate"`` (libjpeg's islow) is closest to the truth and to nvJPEG; ``"fast"`` gives FFCV's
        pixels exactly and is 3-5 % faster.

    Raises
    ------
    PipelineError
        If `dct` is neither.
    """

    name = "turbo"
    capabilities = Capabilities()

    def __init__(self, dct: str = "accurate") -> None:
        if dct not in ("accurate", "fast"):
            raise PipelineError(f"dct must be 'accurate' or 'fast', not {dct!r}")
        self._fast = dct == "fast"

    def submit(self, encoded: Encoded, arena: ByteArray, offsets: IntArray) -> Finished:
        """Decode all images now; see `JpegBackend.submit`."""
        stored, count = encoded.stored, encoded.offsets.size
        sizes = 3 * encoded.heights * encoded.widths
        columns = (
            encoded.offsets,
            encoded.offsets + encoded.lengths,
            offsets,
            offsets + sizes,
            encoded.heights,
            encoded.widths,
        )
        rows = zip(range(count), *(column.tolist() for column in columns), strict=True)
        faults = self.decode_files(
            (i, stored[start:stop], arena[to:end], height, width, None)
            for i, start, stop, to, end, height, width in rows
        )
        status = np.zeros(count, np.int8)
        for i, (what, _) in faults.items():
            status[i] = what
        return Finished(Decoded(status, {i: words for i, (_, words) in faults.items()}))

    def decode_files(self, files: Iterable[File]) -> dict[int, Fault]:
        """Decode whole files, ignoring rectangles; see `FileBackend`."""
        decode, fast = simplejpeg.decode_jpeg, self._fast
        faults: dict[int, Fault] = {}
        # The only loop over samples on the CPU path: libjpeg-turbo has no batched call. Keep it short: its
        # Python code holds the GIL and runs with cold caches, several times slower than alone.
        for i, data, memory, height, width, _ in files:
            try:
                image = decode(data, "RGB", fast, buffer=memory)
            except ValueError as error:
                faults[i] = _fault(data, str(error))
                continue
            if image.shape != (height, width, 3):
                faults[i] = _wrong_size(*image.shape[:2])
        return faults


def _fault(data: ByteArray, words: str) -> Fault:
    """Return a fault from the decoder's message, or raise `MemoryError`."""
    if NO_MEMORY in words:
        raise MemoryError(f"libjpeg: {words}")
    if any(part in words for part in _UNSUPPORTED):
        return DecodeStatus.UNSUPPORTED, words
    with suppress(DecodeError):
        if _TOO_LARGE in words:
            return _wrong_size(*scan_jpeg(data.tobytes())[:2])
        if UNNAMED_CHROMA in words:
            header = scan_jpeg(data.tobytes())
            longer = max(header.height, header.width)
            if longer > _MAX_SIDE:
                return DecodeStatus.UNSUPPORTED, f"a side of {longer} pixels; libjpeg decodes {_MAX_SIDE}"
            if header.subsampling in _RARE_CHROMA:
                return DecodeStatus.UNSUPPORTED, words
    return DecodeStatus.BAD_JPEG, words


def _wrong_size(height: int, width: int) -> Fault:
    return DecodeStatus.WRONG_SIZE, f"the JPEG is {width} x {height} pixels"
