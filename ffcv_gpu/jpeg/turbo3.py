"""JPEG decoding on the CPU, only the needed part of each image, by libjpeg-turbo 3, which can crop.

Pixels equal those of the whole decoded image, byte for byte. Some damage that decoding the whole image
reveals goes unnoticed, even if it affects pixels of the rectangle: most damage shows only at the end of the
scan (too few or too many bytes), which is below the rectangle and is never read. The checksums of our own
files detect all of it; plain FFCV files have none, and are decoded this way only on request.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from ffcv_gpu.jpeg.base import Capabilities
from ffcv_gpu.jpeg.one_call import Addresses, OneCall, Rows
from ffcv_gpu.native import turbojpeg, turbojpeg3

__all__ = ["Turbo3Backend"]


class Turbo3Backend(OneCall):
    """Decodes only the rectangles in `Encoded.boxes`, if given; see `OneCall`.

    This backend also decodes rare chroma samplings (4:1:0).

    Raises
    ------
    BackendUnavailable
        If there is no libturbojpeg 3.
    """

    name = "turbo3"
    capabilities = Capabilities(roi=True)

    def __init__(self, dct: str = "accurate") -> None:
        super().__init__(dct)
        self._library = turbojpeg3.required()

    def _decode(self, rows: Rows, outcome: npt.NDArray[np.int8]) -> None:
        from ffcv_gpu.kernels.jpeg_turbo_cpu import decode_cropped

        decode_cropped(self._functions, rows, self._fast, outcome)

    @cached_property
    def _functions(self) -> Addresses:
        from ffcv_gpu.kernels.jpeg_turbo_cpu import CROPPING

        return np.array(turbojpeg.addresses(self._library, CROPPING), np.int64)
