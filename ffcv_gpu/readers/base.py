"""What the loader asks of a reader: bytes by offset and length."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from ffcv_gpu.steps import IntArray

__all__ = ["ByteArray", "Reader"]

ByteArray = npt.NDArray[np.uint8]


class Reader(Protocol):
    """Reads ranges of one file; every method may be called from any thread.

    Attributes
    ----------
    mapped : uint8 (file size,) or None
        The whole file as read-only memory, where the reader has it: then nothing is copied.
    """

    @property
    def mapped(self) -> ByteArray | None:
        """The whole file, read-only, or None."""

    def read_into(self, offsets: IntArray, lengths: IntArray, out: ByteArray) -> None:
        """Fill `out`, uint8 (sum of lengths,), with the ranges one behind the other.

        Raises
        ------
        ReadError
            If a range cannot be read in full; names file and offset.
        """

    def view(self, offset: int, length: int) -> ByteArray:
        """Return one range as read-only uint8 (length,); valid as long as it is referenced."""

    def close(self) -> None:
        """Release the file; views handed out stay valid."""
