"""One sample in planes Y, Cb and Cr: each is resampled at its own resolution, then converted to RGB.

This is the CPU reference of the GPU kernel, and its fallback; JPEGs decoded on a CPU arrive as interleaved
pixels.
"""

from __future__ import annotations

from collections import namedtuple

import numpy as np
from numpy import float32

from ffcv_gpu.kernels._numba import body, loop, shared
from ffcv_gpu.kernels.axis_cpu import axis_taps, chroma_taps, fill_axis, fill_chroma_axis
from ffcv_gpu.kernels.block import MAX_PRODUCT
from ffcv_gpu.kernels.chroma import to_rgb
from ffcv_gpu.kernels.codes import (
    COLUMN_HEIGHT,
    COLUMN_KIND,
    COLUMN_OFFSET0,
    COLUMN_PITCH0,
    COLUMN_PITCH12,
    COLUMN_WIDTH,
    KIND_GREY,
    SHIFT_X_BITS,
    SHIFT_Y_BITS,
    chroma_side,
    padded,
)
from ffcv_gpu.kernels.pointwise import to_byte
from ffcv_gpu.kernels.resample import axis_filter
from ffcv_gpu.kernels.rows_cpu import blend_bytes, stretch

__all__ = ["Plane", "carve_planes", "check_planes", "make_planes_row"]

#: One plane: its first byte and pitch; the first column that its tables need and how many; the tables.
Plane = namedtuple("Plane", "begin pitch left width x_starts x_weights y_starts y_weights")

part_size = shared(padded)
plane_side = shared(chroma_side)


@loop
def check_planes(pixels, record, box, out_h, out_w):
    """Raise ValueError if a sample's box or planes are out of bounds, or it is too large."""
    height, width = record[COLUMN_HEIGHT], record[COLUMN_WIDTH]
    if max(height, width) * max(out_h, out_w) >= MAX_PRODUCT:
        raise ValueError("compose: an image in planes is too large for this output")
    inside = box[0] >= 0 and box[1] >= 0 and box[2] >= 1 and box[3] >= 1
    if not inside or box[0] + box[2] > height or box[1] + box[3] > width:
        raise ValueError("compose: a box lies outside its pixels")
    for plane in range(1 if record[COLUMN_KIND] & KIND_GREY else 3):
        pitch, h, w = record[COLUMN_PITCH0], height, width
        if plane > 0:
            pitch = record[COLUMN_PITCH12]
            h = plane_side(height, (record[COLUMN_KIND] >> SHIFT_Y_BITS) & 3)
            w = plane_side(width, (record[COLUMN_KIND] >> SHIFT_X_BITS) & 3)
        begin = record[COLUMN_OFFSET0 + plane]
        if begin < 0 or pitch < 0 or begin + (h - 1) * pitch + w > pixels.size:
            raise ValueError("compose: a plane lies outside its pixels")


@body
def make_plane(tables, begin, pitch, out_h, out_w, x_taps, y_taps):
    """Return a `Plane` whose tables, not filled yet, lie in `tables`, and the rest of `tables`."""
    x_weights = part_size(out_w)
    y_starts = x_weights + part_size(out_w * x_taps)
    y_weights = y_starts + part_size(out_h)
    end = y_weights + part_size(out_h * y_taps)
    if end > tables.size:
        raise ValueError("compose: scratch is too small; ask scratch_size()")
    plane = Plane(
        begin,
        pitch,
        np.int64(0),
        np.int64(0),
        tables[:out_w].view(np.uint32),
        tables[x_weights : x_weights + out_w * x_taps],
        tables[y_starts : y_starts + out_h].view(np.uint32),
        tables[y_weights : y_weights + out_h * y_taps],
    )
    return plane, tables[end:]


@body
def narrowed(plane, out_w):
    """Return the plane with its columns counted from the first one needed."""
    starts, taps = plane.x_starts, plane.x_weights.size // out_w
    low = high = np.int64(starts[0])
    for x in range(out_w):  # a shift that reflects turns back before an end
        low, high = min(low, np.int64(starts[x])), max(high, np.int64(starts[x]))
    width = high + taps - low
    for x in range(out_w):
        starts[x] -= np.uint32(low)
    return Plane(
        plane.begin, plane.pitch, low, width, starts, plane.x_weights, plane.y_starts, plane.y_weights
    )


@loop
def carve_planes(tables, record, box, geometry, out_h, out_w, resample):
    """Return the planes of luma and of chroma (Cb), with their tables carved out of `tables`.

    Raises
    ------
    ValueError
        If `tables` is too small.
    """
    kind = axis_filter(resample, box[2], box[3], out_h, out_w)
    pitch, one = record[COLUMN_PITCH0], np.int64(1)
    corner = record[COLUMN_OFFSET0] + box[0] * pitch + box[1]
    taps_y, taps_x = axis_taps(kind, box[2], out_h), axis_taps(kind, box[3], out_w)
    luma, rest = make_plane(tables, corner, pitch, out_h, out_w, taps_x, taps_y)
    fill_axis(kind, box[2], out_h, geometry[0], geometry[1], one, taps_y, luma.y_starts, luma.y_weights)
    fill_axis(kind, box[3], out_w, geometry[2], geometry[3], one, taps_x, luma.x_starts, luma.x_weights)

    shift_y, shift_x = (record[COLUMN_KIND] >> SHIFT_Y_BITS) & 3, (record[COLUMN_KIND] >> SHIFT_X_BITS) & 3
    tall, wide = plane_side(record[COLUMN_HEIGHT], shift_y), plane_side(record[COLUMN_WIDTH], shift_x)
    taps_y = chroma_taps(kind, box[0], box[2], out_h, shift_y, tall)
    taps_x = chroma_taps(kind, box[1], box[3], out_w, shift_x, wide)
    chroma, _ = make_plane(
        rest, record[COLUMN_OFFSET0 + 1], record[COLUMN_PITCH12], out_h, out_w, taps_x, taps_y
    )
    fill_chroma_axis(
        kind, box[0], box[2], out_h, geometry[0], geometry[1], shift_y, tall, taps_y, chroma.y_starts,
        chroma.y_weights,
    )  # fmt: skip
    fill_chroma_axis(
        kind, box[1], box[3], out_w, geometry[2], geometry[3], shift_x, wide, taps_x, chroma.x_starts,
        chroma.x_weights,
    )  # fmt: skip
    return narrowed(luma, out_w), narrowed(chroma, out_w)


@loop
def resample_row(pixels, begin, plane, y, out_h, line, row):
    """Write row `y` of one plane, whose first byte is `begin`, as float32."""
    taps = plane.y_weights.size // out_h
    first = begin + np.int64(plane.y_starts[y]) * plane.pitch + plane.left
    weights = plane.y_weights[y * taps : y * taps + taps]
    blend_bytes(pixels, first, plane.pitch, plane.width, weights, line)
    stretch(line, 1, plane.x_starts, plane.x_weights, row)


@loop
def make_planes_row(pixels, luma, chroma, red_begin, grey, y, out_h, line, rows, values):
    """Write output row `y`, converted and rounded to uint8, to `values`.

    Parameters
    ----------
    luma, chroma : Plane
    red_begin : int
        First byte of Cr, which is otherwise like Cb.
    grey : bool
        True if there is no chroma.
    line : float32 (>= columns of the box + 8,)
    rows : float32 (>= 3 * (out_w + 8),)
    values : uint8 (3 * out_w,)
    """
    width = values.size // 3
    size = rows.size // 3
    levels, blue, red = rows[:size], rows[size : 2 * size], rows[2 * size :]
    resample_row(pixels, luma.begin, luma, y, out_h, line, levels)
    if grey:
        for x in range(width):
            blue[x] = float32(128.0)
            red[x] = float32(128.0)
    else:
        resample_row(pixels, chroma.begin, chroma, y, out_h, line, blue)
        resample_row(pixels, red_begin, chroma, y, out_h, line, red)
    for x in range(width):
        one, two, three = to_rgb(levels[x], blue[x], red[x])
        values[3 * x] = to_byte(one)
        values[3 * x + 1] = to_byte(two)
        values[3 * x + 2] = to_byte(three)
