"""Overwriting rectangles of the output: inside them, or everywhere else.

Row by row for a CPU (`span_start`, `span_end`), pixel by pixel for a GPU (`is_erased`).
"""

from __future__ import annotations

from ffcv_gpu.kernels._numba import body
from ffcv_gpu.kernels.codes import ERASE_INSIDE

__all__ = ["is_erased", "span_end", "span_start"]


@body
def span_start(y, y0, x0, y1, width):
    """Return where the rectangle's part of row `y` begins; 0 if the row does not meet it."""
    return min(max(x0, 0), width) if y0 <= y < y1 else 0


@body
def span_end(y, y0, y1, x1, width):
    """Return where the rectangle's part of row `y` ends (half open); 0 if the row does not meet it."""
    return min(max(x1, 0), width) if y0 <= y < y1 else 0


@body
def is_erased(code, y, x, y0, x0, y1, x1, width):
    """Return whether an operation overwrites output pixel (y, x).

    ERASE_INSIDE overwrites the half-open rectangle, ERASE_OUTSIDE everything else.
    """
    inside = span_start(y, y0, x0, y1, width) <= x < span_end(y, y0, y1, x1, width)
    return inside == (code == ERASE_INSIDE)
