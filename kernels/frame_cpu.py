"""One sample in progress: the tables and buffers it needs, and how a row of its output is computed."""

from __future__ import annotations

from collections import namedtuple

import numpy as np

from ffcv_gpu.kernels._numba import body, loop, shared
from ffcv_gpu.kernels.axis_cpu import axis_taps, fill_axis
from ffcv_gpu.kernels.codes import padded
from ffcv_gpu.kernels.resample import AXIS_POINT, axis_filter
from ffcv_gpu.kernels.rows_cpu import blend, blend_bytes, pick, stretch, to_bytes, widen

__all__ = ["Parts", "carve", "fill_axes", "make_row"]

#: The scratch memory of a sample: `line` float32, a source row or a blend of several; `top` and `bottom`
#: float32, rows resampled along x; `held` uint32 (2,), which rows those are; `values` uint8, the finished
#: row; first taps (uint32) and weights (float32) of the columns and of the rows.
Parts = namedtuple("Parts", "line top bottom held values x_starts x_weights y_starts y_weights")

NO_ROW = np.uint32(0xFFFFFFFF)
part_size = shared(padded)


@loop
def carve(scratch, h, w, out_h, out_w, channels, resample):
    """Return the `Parts` of a sample, carved out of `scratch`.

    Raises
    ------
    ValueError
        If `scratch` is too small.
    """
    kind = axis_filter(resample, h, w, out_h, out_w)
    x_taps, y_taps = axis_taps(kind, w, out_w), axis_taps(kind, h, out_h)
    row, count = part_size(out_w * channels), out_w * channels
    line = part_size(w * channels)
    top = line
    bottom = top + row
    values = bottom + row
    x_starts = values + row
    x_weights = x_starts + part_size(out_w)
    y_starts = x_weights + part_size(out_w * x_taps)
    y_weights = y_starts + part_size(out_h)
    if y_weights + part_size(out_h * y_taps) > scratch.size:
        raise ValueError("compose: scratch is too small; ask scratch_size()")
    # The finished row uses one byte per float of its part: `held` lies in the unused rest.
    return Parts(
        scratch[:line],
        scratch[top:bottom],
        scratch[bottom:values],
        scratch[x_starts - 2 : x_starts].view(np.uint32),
        scratch[values:x_starts].view(np.uint8)[:count],
        scratch[x_starts : x_starts + out_w].view(np.uint32),
        scratch[x_weights : x_weights + out_w * x_taps],
        scratch[y_starts : y_starts + out_h].view(np.uint32),
        scratch[y_weights : y_weights + out_h * y_taps],
    )


@body
def fill_axes(parts, box, geometry, channels, out_h, out_w, resample):
    """Write the tables of both axes and mark that no row is held."""
    h, w = box[2], box[3]
    kind = axis_filter(resample, h, w, out_h, out_w)
    x_taps, y_taps = parts.x_weights.size // out_w, parts.y_weights.size // out_h
    fill_axis(kind, h, out_h, geometry[0], geometry[1], np.int64(1), y_taps, parts.y_starts, parts.y_weights)
    fill_axis(kind, w, out_w, geometry[2], geometry[3], channels, x_taps, parts.x_starts, parts.x_weights)
    parts.held[0] = NO_ROW
    parts.held[1] = NO_ROW


@body
def hold_row(pixels, begin, pitch, count, channels, row, parts):
    """Resample source row `row` along x, unless it is held; even rows go to `top`, odd ones to `bottom`."""
    slot = row & 1
    if parts.held[slot] != row:
        parts.held[slot] = row
        widen(pixels[begin + row * pitch : begin + row * pitch + count], parts.line)
        target = parts.top if slot == 0 else parts.bottom
        stretch(parts.line, channels, parts.x_starts, parts.x_weights, target)


@loop
def make_row(pixels, begin, pitch, box, channels, y, out_h, resample, parts):
    """Write output row `y`, rounded to uint8, to `parts.values`.

    The enlarged axis comes last, so that the other has fewer pixels to process: an enlarged image is
    resampled along x once per source row, and two such rows serve several output rows; a shrunken one is
    blended along y first, the pass that vectorises best.
    """
    count = box[3] * channels
    first = np.int64(parts.y_starts[y])
    if axis_filter(resample, box[2], box[3], out_h, parts.x_starts.size) == AXIS_POINT:
        source = pixels[begin + first * pitch : begin + first * pitch + count]
        pick(source, channels, parts.x_starts, parts.values)
        return
    taps = parts.y_weights.size // out_h
    weights = parts.y_weights[y * taps : y * taps + taps]
    if box[2] >= out_h:
        blend_bytes(pixels, begin + first * pitch, pitch, count, weights, parts.line)
        stretch(parts.line, channels, parts.x_starts, parts.x_weights, parts.top)
        to_bytes(parts.top, parts.values)
        return
    hold_row(pixels, begin, pitch, count, channels, first, parts)
    if taps == 1:
        to_bytes(parts.top, parts.values)
        return
    hold_row(pixels, begin, pitch, count, channels, first + 1, parts)
    even, odd = (weights[0], weights[1]) if first & 1 == 0 else (weights[1], weights[0])
    blend(parts.top, even, parts.bottom, odd, parts.values)
