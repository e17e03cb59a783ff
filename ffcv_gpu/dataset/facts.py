"""JPEG facts for files that store none: found in the JPEGs' headers as they are read, and kept."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ffcv_gpu.dataset.facts_file import FactsFile
from ffcv_gpu.format import JPEG_FACTS
from ffcv_gpu.jpeg.base import ByteArray, DecodeStatus
from ffcv_gpu.jpeg.scan import NO_FACTS, scan_jpegs
from ffcv_gpu.steps import IntArray

__all__ = ["FactsStore"]


class FactsStore:
    """What is known about the JPEGs of one field, 7 bytes per sample.

    Filled by the loader's threads during the first epoch; two that scan one image write the same.

    Parameters
    ----------
    num_samples : int
    kept : FactsFile, optional
        Where earlier runs saved their facts, and `keep` saves these.
    """

    def __init__(self, num_samples: int, kept: FactsFile | None = None) -> None:
        self._facts = np.full(num_samples, np.array(NO_FACTS, JPEG_FACTS), JPEG_FACTS)
        self._known = np.zeros(num_samples, np.bool_)
        self._kept = kept
        self._load()
        self._saved = int(self._known.sum())

    def _load(self) -> None:
        """Add what only the file knows: another process may have scanned other samples."""
        if self._kept is None or (found := self._kept.load(self._known.size)) is None:
            return
        new = np.flatnonzero(found[0] & ~self._known)
        self._facts[new] = found[1][new]
        self._known[new] = True

    def keep(self) -> None:
        """Save what is known, if there is a file for it and anything is new."""
        if self._kept is None or int(self._known.sum()) == self._saved:
            return
        self._load()
        known = self._known.copy()  # copied first: the facts are written before a sample counts as known
        self._kept.save(known, self._facts)
        self._saved = int(known.sum())

    def look_up(
        self,
        samples: IntArray,
        stored: ByteArray,
        offsets: IntArray,
        lengths: IntArray,
        heights: IntArray,
        widths: IntArray,
    ) -> npt.NDArray[np.void]:
        """Return `JPEG_FACTS` (n,) of `samples`, whose bytes are in `stored`; scans headers not yet known.

        A JPEG that must not reach a GPU decoder (damaged, of another size than recorded, not 8 bits per
        component) gets `NO_FACTS`, and routing then sends it to the CPU.
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
