"""JPEG on the CPU: libjpeg-turbo, through simplejpeg, into the caller's memory, without the GIL."""

from __future__ import annotations

import numpy as np
import simplejpeg

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.jpeg.base import Box, ByteArray, Capabilities, Decoded, DecodeStatus, Encoded, Fault, Finished
from ffcv_gpu.steps import IntArray

__all__ = ["TurboBackend"]


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
    capabilities = Capabilities(progressive=True)

    def __init__(self, dct: str = "accurate") -> None:
        if dct not in ("accurate", "fast"):
            raise PipelineError(f"dct must be 'accurate' or 'fast', not {dct!r}")
        self._fast = dct == "fast"

    def submit(self, encoded: Encoded, arena: ByteArray, offsets: IntArray) -> Finished:
        """Decode all images now; see `JpegBackend.submit`."""
        status = np.zeros(encoded.offsets.size, np.int8)
        reasons: dict[int, str] = {}
        decode, stored = self.decode_one, encoded.stored
        sizes = 3 * encoded.heights * encoded.widths
        columns = (
            encoded.offsets,
            encoded.offsets + encoded.lengths,
            offsets,
            offsets + sizes,
            encoded.heights,
            encoded.widths,
        )
        rows = zip(*(column.tolist() for column in columns), strict=True)
        # The one loop over samples on the CPU path: libjpeg-turbo has no batched call. About 3
        # microseconds of Python around 1,000 of decoding.
        for i, (start, stop, to, end, height, width) in enumerate(rows):
            fault = decode(stored[start:stop], arena[to:end], height, width)
            if fault is not None:
                status[i], reasons[i] = fault
        return Finished(Decoded(status, reasons))

    def decode_one(
        self, data: ByteArray, memory: ByteArray, height: int, width: int, box: Box | None = None
    ) -> Fault | None:
        """Decode one image, all of it; see `OneByOne.decode_one`."""
        try:
            image = simplejpeg.decode_jpeg(data, "RGB", self._fast, buffer=memory)
        except ValueError as error:
            return DecodeStatus.BAD_JPEG, str(error)
        if image.shape[0] != height or image.shape[1] != width:
            return DecodeStatus.WRONG_SIZE, f"the JPEG is {image.shape[1]} x {image.shape[0]} pixels"
        return None
