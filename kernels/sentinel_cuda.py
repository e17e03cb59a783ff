"""Marks in memory that a decoder is to overwrite: where one still stands, an image was skipped in silence."""

from __future__ import annotations

from numba import cuda
from numpy import int32, uint8, uint32, uint64

__all__ = ["compare_marks", "write_marks"]


def write_marks(pixels, starts, marks, width):
    """Write row i of flat `marks`, `width` bytes, from byte ``starts[i]`` on; a thread writes a byte."""
    i = int32(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x)
    if i < marks.size:
        row = int32(i // width)
        pixels[uint64(starts[uint32(row)] + i - row * width)] = marks[uint32(i)]


def compare_marks(pixels, starts, marks, same, width):
    """Set ``same[i]`` to 1 where row i of flat `marks` stands, else to 0; a thread reads a row."""
    i = int32(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x)
    if i < same.size:
        equal = True
        for k in range(width):
            equal = equal and pixels[uint64(starts[uint32(i)] + k)] == marks[uint32(i * width + k)]
        same[uint32(i)] = uint8(1) if equal else uint8(0)
