"""Facts of JPEGs for files that bring none: found in the bytes as they pass by, and kept."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ffcv_gpu.format import JPEG_FACTS
from ffcv_gpu.jpeg.base import ByteArray, DecodeStatus
from ffcv_gpu.jpeg.scan import NO_FACTS, scan_jpegs
from ffcv_gpu.steps import IntArray

__all__ = ["FactsStore"]


class FactsStore:
    """What is known of the JPEGs of one field, 7 bytes a sample.

    Filled by the loader's threads during the first epoch; two that scan the same image write the same.

    Parameters
    ----------
    num_samples : int
    """

    def __init__(self, num_samples: int) -> None:
        self._facts = np.full(num_samples, np.array(NO_FACTS, JPEG_FACTS), JPEG_FACTS)
        self._known = np.zeros(num_samples, np.bool_)

    def look_up(
        self,
        samples: IntArray,
        stored: ByteArray,
        offsets: IntArray,
        lengths: IntArray,
        heights: IntArray,
        widths: IntArray,
    ) -> npt.NDArray[np.void]:
        """Return `JPEG_FACTS` (n,) of `samples`, whose bytes lie in `stored`; reads headers not yet known.

        A JPEG that no GPU decoder may see (damaged, of another size than recorded, not of 8 bits a sample)
        has `NO_FACTS`, by which routing sends it to the CPU.
        """
        new = np.flatnonzero(~self._known[samples])
        if new.size:
            found = scan_jpegs(stored, offsets[new], lengths[new])
            fine = (found.status == DecodeStatus.GOOD) & (found.precisions == 8)
            fine &= (found.heights == heights[new]) & (found.widths == widths[new])
            found.facts[~fine] = np.array(NO_FACTS, JPEG_FACTS)
            self._facts[samples[new]] = found.facts
            self._known[samples[new]] = True
        return self._facts[samples]
