"""Functions of one value."""

from __future__ import annotations

from numpy import float32, int32, uint8

from ffcv_gpu.kernels._numba import body

__all__ = ["to_byte"]


@body
def to_byte(value):
    """Return a float32 as the nearest uint8, halves upwards, clipped to [0, 255]."""
    clipped = min(max(value + float32(0.5), float32(0.0)), float32(255.0))
    return uint8(int32(clipped))
