"""The start tables of a launch block: where in the source each row and column of the output begins.

Computed on the host, one range of samples at a time, because OpenCV's float64 rounding errors
(`axis_cpu.opencv_start`) are part of the result, and a GPU is slow in float64. An entry is
``start | count << 16``.
"""

from __future__ import annotations

import numpy as np

from ffcv_gpu.kernels._numba import body, entry, loop, shared
from ffcv_gpu.kernels.axis_cpu import chroma_position, position_span
from ffcv_gpu.kernels.codes import (
    COLUMN_HEIGHT,
    COLUMN_KIND,
    COLUMN_WIDTH,
    KIND_YCBCR,
    SHIFT_X_BITS,
    SHIFT_Y_BITS,
    chroma_side,
)
from ffcv_gpu.kernels.resample import AXIS_POINT, axis_filter, frame_position

__all__ = ["fill_starts"]

plane_side = shared(chroma_side)


@body
def pack(start, count):
    """Return a table entry."""
    return np.int32(np.uint32(start) | np.uint32(count) << np.uint32(16))


@loop
def fill_line(kind, size, sign, shift, entries):
    """Write the table of one axis of a sample."""
    out_size = entries.size
    if kind == AXIS_POINT and size == out_size:  # the loop below gives the same, 17 times slower
        for p in range(out_size):
            entries[p] = pack(frame_position(p, sign, shift, out_size), 1)
        return
    for p in range(out_size):
        start, taps = position_span(kind, frame_position(p, sign, shift, out_size), size, out_size)
        entries[p] = pack(start, taps)


@entry
def fill_starts(table, boxes, geometry, resample, rows, columns, chroma_rows, chroma_columns, lo, hi):
    """Write the start tables of samples [lo, hi), without the GIL.

    Parameters
    ----------
    table, boxes, geometry, resample :
        As in `shell_cpu.compose`.
    rows, columns : int32 (N, out_h), (N, out_w)
        Counted from the first row and column of the box.
    chroma_rows, chroma_columns : int32 (N, out_h), (N, out_w), or (0, ...)
        Counted from the first pixel of the chroma planes; written only for samples that have them.
    lo, hi : int

    Raises
    ------
    ValueError
        If an array has fewer rows than `hi`.
    """
    count = min(min(table.shape[0], boxes.shape[0]), min(geometry.shape[0], rows.shape[0]))
    if lo < 0 or hi > min(count, columns.shape[0]):
        raise ValueError("fill_starts: an array has fewer rows than hi")
    out_h, out_w = rows.shape[1], columns.shape[1]
    for n in range(lo, hi):
        y, x, h, w = boxes[n, 0], boxes[n, 1], boxes[n, 2], boxes[n, 3]
        kind = axis_filter(resample, h, w, out_h, out_w)
        fill_line(kind, h, geometry[n, 0], geometry[n, 1], rows[n])
        fill_line(kind, w, geometry[n, 2], geometry[n, 3], columns[n])
        source = table[n, COLUMN_KIND]
        if source & KIND_YCBCR and n < chroma_rows.shape[0]:
            shift_y, shift_x = (source >> SHIFT_Y_BITS) & 3, (source >> SHIFT_X_BITS) & 3
            plane_h = plane_side(table[n, COLUMN_HEIGHT], shift_y)
            plane_w = plane_side(table[n, COLUMN_WIDTH], shift_x)
            for p in range(out_h):
                i = frame_position(p, geometry[n, 0], geometry[n, 1], out_h)
                start, taps = chroma_position(kind, i, y, h, out_h, shift_y, plane_h)
                chroma_rows[n, p] = pack(start, taps)
            for p in range(out_w):
                i = frame_position(p, geometry[n, 2], geometry[n, 3], out_w)
                start, taps = chroma_position(kind, i, x, w, out_w, shift_x, plane_w)
                chroma_columns[n, p] = pack(start, taps)
