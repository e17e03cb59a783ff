"""JPEG decoding on the CPU, whole images, by the machine's libturbojpeg 2 or 3: a call for many images.

simplejpeg, which `TurboBackend` uses, is called by Python for each image. Many threads then wait for Python's
lock: on stand-ins for decoding, 16 threads are 1.6 times as fast with one call per lane, 32 threads twice
(``threads.json``); real decoding on two cores is 1.02 to 1.14 times as fast.

The pixels are the same. Only of some damaged progressive JPEGs that no version reports do those before 3.0.1
give slightly others: they smooth blocks without details in another way.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from ffcv_gpu.jpeg.base import Capabilities
from ffcv_gpu.jpeg.one_call import Addresses, OneCall, Rows
from ffcv_gpu.native import turbojpeg

__all__ = ["Turbo2Backend"]


class Turbo2Backend(OneCall):
    """Decodes whole images; see `OneCall`.

    Raises
    ------
    BackendUnavailable
        If there is no libturbojpeg.
    """

    name = "turbo2"
    capabilities = Capabilities()

    def __init__(self, dct: str = "accurate") -> None:
        super().__init__(dct)
        self._library = turbojpeg.required()

    def _decode(self, rows: Rows, outcome: npt.NDArray[np.int8]) -> None:
        from ffcv_gpu.kernels.jpeg_turbo_cpu import FACTS, decode_whole

        facts = np.empty(FACTS, np.int32)
        decode_whole(self._functions, rows, self._fast, outcome, facts, facts.ctypes.data)

    @cached_property
    def _functions(self) -> Addresses:
        from ffcv_gpu.kernels.jpeg_turbo_cpu import WHOLE

        return np.array(turbojpeg.addresses(self._library, WHOLE), np.int64)
