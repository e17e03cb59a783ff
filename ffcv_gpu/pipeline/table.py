"""The lookup table of a fused stage: all functions of one 8-bit value, composed, as output bits.

FFCV also normalises with a table (``((arange(256) - mean) / std).astype(type)``, float64 inside); the values
here are bit-for-bit the same. Storing *bits* lets one kernel serve float16 and bfloat16, which Numba's CPU
target cannot store.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ffcv_gpu.steps import FloatArray, Lookup, channel_values

__all__ = ["BIT_TYPES", "ValueTable", "to_bits"]

#: unsigned type that holds the bits of each dtype
BIT_TYPES = {"uint8": np.uint8, "float16": np.uint16, "bfloat16": np.uint16, "float32": np.uint32}


class ValueTable:
    """256 values per channel, and the dtype they are rounded to; immutable."""

    def __init__(self, channels: int, values: FloatArray | None = None, dtype: str = "uint8") -> None:
        identity = np.tile(np.arange(256, dtype=np.float64), (channels, 1))
        self.channels = channels
        self.dtype = dtype
        self.used = values is not None
        self._values = identity if values is None else values

    @staticmethod
    def can_hold(dtype: str) -> bool:
        """True if output of this dtype can come from a table."""
        return dtype in BIT_TYPES and dtype != "uint8"

    def mapped(self, step: Lookup, dtype: str) -> ValueTable:
        """Return the table with `step` applied to its values and rounded to `dtype`."""
        values = from_bits(to_bits(step.values(self._values), dtype), dtype)
        return ValueTable(self.channels, values, dtype)

    def bits(self) -> npt.NDArray[np.unsignedinteger]:
        """Return the table as bits of the output dtype, (channels, 256)."""
        return to_bits(self._values, self.dtype)

    def fill_bits(self, fill: Sequence[float], who: str) -> npt.NDArray[np.uint32]:
        """Return a fill colour as bits of the table's dtype, uint32 (channels,).

        Raises
        ------
        PipelineError
            If the number of values does not match the channels.
        """
        values = channel_values(fill, self.channels, f"{who}: fill")
        return to_bits(values, self.dtype).astype(np.uint32)


def to_bits(values: FloatArray, dtype: str) -> npt.NDArray[np.unsignedinteger]:
    """Round float64 values to `dtype` (nearest, ties to even; uint8 clips) and return their bits."""
    if dtype == "uint8":
        return np.clip(np.rint(values), 0, 255).astype(np.uint8)
    if dtype == "bfloat16":
        # bfloat16 is the upper half of a float32; adding 0x7FFF and the lowest kept bit rounds to even.
        word = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
        return ((word + 0x7FFF + ((word >> 16) & 1)) >> 16).astype(np.uint16)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype=np.dtype(dtype)).view(BIT_TYPES[dtype])


def from_bits(bits: npt.NDArray[np.unsignedinteger], dtype: str) -> FloatArray:
    """Return the values that `bits` represent, float64."""
    if dtype == "bfloat16":
        return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return bits.view(np.dtype(dtype)).astype(np.float64)
