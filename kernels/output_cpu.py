"""Takes a finished row of uint8 values to the output: erase, look up, erase again."""

from __future__ import annotations

import numpy as np

from ffcv_gpu.kernels._numba import loop
from ffcv_gpu.kernels.codes import ERASE_INSIDE
from ffcv_gpu.kernels.erase import span_end, span_start

__all__ = ["erase_row", "is_identity", "look_up", "look_up_box"]


@loop
def is_identity(lut):
    """Return whether every value of a table equals its index, so that rows can be copied."""
    for c in range(lut.shape[0]):
        for value in range(256):
            if lut[c, value] != value:
                return False
    return True


@loop
def fill_span(out, at, step_x, step_c, begin, end, fill, channels):
    """Write one colour to columns [begin, end) of a row whose first element is `out[at]`."""
    for c in range(channels):
        value = fill[c]
        for x in range(begin, end):
            out[at + x * step_x + c * step_c] = value


@loop
def erase_row(out, at, step_x, step_c, y, width, channels, ops, fills, params):
    """Apply operations to output row `y`.

    Parameters
    ----------
    out : integers, 1-D
    at, step_x, step_c : int
        Index of the row's first element; elements from one column and from one channel to the next.
    y, width, channels : int
    ops : int32 (K, 2)
    fills : uint32 (K, 4)
    params : float32 (P,)
        This sample's.
    """
    for k in range(ops.shape[0]):
        first = ops[k, 1]
        y0, x0 = int(params[first]), int(params[first + 1])
        y1, x1 = int(params[first + 2]), int(params[first + 3])
        begin = span_start(y, y0, x0, y1, width)
        end = max(begin, span_end(y, y0, y1, x1, width))
        inside = ops[k, 0] == ERASE_INSIDE
        # two spans: the rectangle and an empty one, or the parts left and right of it
        left, right = (begin, end) if inside else (0, begin)
        fill_span(out, at, step_x, step_c, left, right, fills[k], channels)
        fill_span(out, at, step_x, step_c, end, end if inside else width, fills[k], channels)


@loop
def look_up(values, lut, identity, out, at, step_x, step_c):
    """Write one row of interleaved uint8 `values`, through the table, to the output.

    Contiguous rows (channels last) and planes (channels first) have their own loops.
    """
    channels = lut.shape[0]
    width = values.size // channels
    if step_c == 1 and step_x == channels:
        target = out[at : at + values.size]
        if identity:
            for i in range(values.size):
                target[i] = values[i]
        elif channels == 3:
            look_up_rgb(values, lut[0], lut[1], lut[2], target)
        else:
            for x in range(width):
                for c in range(channels):
                    target[x * channels + c] = lut[c, values[x * channels + c]]
        return
    if step_x == 1 and channels == 3:
        red, green, blue = out[at : at + width], out[at + step_c :][:width], out[at + 2 * step_c :][:width]
        for x in range(width):
            red[x] = lut[0, values[3 * x]]
            green[x] = lut[1, values[3 * x + 1]]
            blue[x] = lut[2, values[3 * x + 2]]
        return
    for x in range(width):
        for c in range(channels):
            out[at + x * step_x + c * step_c] = lut[c, values[x * channels + c]]


@loop
def look_up_box(pixels, begin, pitch, lut, identity, target, rows):
    """Write a box that is neither resized nor moved to its interleaved sample, through the table."""
    channels, count = np.int64(lut.shape[0]), target.size // rows
    if pitch == count:
        rows, count = np.int64(1), target.size
    for y in range(rows):
        source = pixels[begin + y * pitch : begin + y * pitch + count]
        look_up(source, lut, identity, target, y * count, channels, np.int64(1))


@loop
def look_up_rgb(values, red, green, blue, target):
    """Look up interleaved values of three channels; `target` has as many elements as `values`."""
    for x in range(values.size // 3):
        target[3 * x] = red[values[3 * x]]
        target[3 * x + 1] = green[values[3 * x + 1]]
        target[3 * x + 2] = blue[values[3 * x + 2]]
