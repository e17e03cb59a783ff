"""Tables for one axis of one sample: for each output position, its first source pixel and the weights.

Computed once per sample, so that the loops over pixels only load, multiply and add.
"""

from __future__ import annotations

import math

from numpy import float32

from ffcv_gpu.kernels._numba import body, loop
from ffcv_gpu.kernels.chroma import chroma_span, plane_triangle, span_weights, triangle_line
from ffcv_gpu.kernels.chroma import tap_weight as plane_weight
from ffcv_gpu.kernels.resample import (
    AXIS_AREA,
    AXIS_LINEAR,
    AXIS_POINT,
    AXIS_TRIANGLE,
    antialias_end,
    antialias_start,
    antialias_weight,
    area_end,
    area_start,
    area_weight,
    frame_position,
    linear_fraction,
    nearest_pixel,
)

__all__ = [
    "axis_taps",
    "chroma_position",
    "chroma_taps",
    "fill_axis",
    "fill_chroma_axis",
    "first_tap",
    "opencv_start",
    "position_span",
]


@loop
def axis_taps(kind, size, out_size):
    """Return the number of weights per output position; `codes.max_taps` bounds it."""
    if kind == AXIS_POINT or size == 1:
        return 1
    if kind == AXIS_LINEAR:
        return 2
    if kind == AXIS_AREA:
        return size // out_size if size % out_size == 0 else 2 + (size - 2) // out_size
    return min(size, (2 * max(size, out_size) + out_size - 1) // out_size)


@body
def opencv_start(i, size, out_size):
    """Return floor(i * size / out_size) as OpenCV computes it in float64: occasionally one too small.

    Its `1 / (out_size / size)` may round to slightly below the true scale; the floor of a product that should
    be whole is then the previous pixel. FFCV's users have been training on that pixel (ten of 224 columns
    for a crop 144 wide), so it is reproduced here.
    """
    return math.floor(float(i) * (1.0 / (float(out_size) / float(size))))


@body
def first_tap(kind, i, size, out_size):
    """Return the first source pixel of output position `i`, before it is clamped to the crop."""
    if kind == AXIS_POINT:
        return nearest_pixel(i, size, out_size)
    if kind == AXIS_AREA:
        return area_start(i, size, out_size)
    if kind == AXIS_TRIANGLE:
        return antialias_start(i, size, out_size)
    return opencv_start(i, size, out_size)


@body
def tap_weight(kind, tap, i, size, out_size):
    """Return the weight of a source pixel for output position `i`, not yet divided by their sum."""
    if kind == AXIS_AREA:
        return area_weight(tap, i, size, out_size)
    if kind == AXIS_TRIANGLE:
        return antialias_weight(tap, i, size, out_size)
    start = opencv_start(i, size, out_size)
    slipped = start < i * size // out_size
    after = float32(0.0) if slipped else linear_fraction(i, size, out_size)
    if tap == start:
        return float32(1.0) - after
    return after if tap == start + 1 else float32(0.0)


@loop
def fill_axis(kind, size, out_size, sign, shift, step, taps, starts, weights):
    """Write the tables of one axis.

    Parameters
    ----------
    kind : int
        AXIS_POINT, AXIS_AREA, AXIS_LINEAR or AXIS_TRIANGLE.
    size, out_size : int
        Pixels of the crop and of the output along the axis.
    sign, shift : int
        Output position p shows frame position `frame_position(p, sign, shift, out_size)`.
    step : int
        Increment of `starts` per source pixel.
    taps : int
        `axis_taps(kind, size, out_size)`.
    starts : uint32 (out_size,)
        First source pixel, at most `size - taps`, times `step`.
    weights : float32 (out_size * taps,)
        Weights of the pixels from there on, which sum to 1.
    """
    for p in range(out_size):
        i = frame_position(p, sign, shift, out_size)
        start = min(first_tap(kind, i, size, out_size), size - taps)
        starts[p] = start * step
        total = float32(0.0)
        for k in range(taps):
            weight = float32(1.0) if kind == AXIS_POINT else tap_weight(kind, start + k, i, size, out_size)
            weights[p * taps + k] = weight
            total += weight
        if kind == AXIS_TRIANGLE:
            for k in range(taps):
                weights[p * taps + k] /= total


@loop
def position_span(kind, i, size, out_size):
    """Return the first source pixel of frame position `i`, and how many pixels it depends on."""
    start = min(first_tap(kind, i, size, out_size), size - 1)
    if kind == AXIS_AREA:
        return start, area_end(i, size, out_size) - start
    if kind == AXIS_TRIANGLE:
        return start, antialias_end(i, size, out_size) - start
    blended = kind == AXIS_LINEAR and tap_weight(kind, start + 1, i, size, out_size) > float32(0.0)
    return start, 2 if blended else 1


@loop
def chroma_position(kind, i, origin, size, out_size, shift, plane):
    """Return the first pixel of a plane for frame position `i`, from the plane's start, and how many.

    The parameters are those of `fill_chroma_axis`.
    """
    start, taps = position_span(kind, i, size, out_size)
    if shift == 0:
        return origin + start, taps
    low, high = 0, plane
    if kind == AXIS_TRIANGLE:
        # like the luma box, plus one pixel, which upsampling reaches
        low = max((origin >> shift) - 1, 0)
        high = min(((origin + size - 1) >> shift) + 2, plane)
        centre, unit, wide = plane_triangle(kind, i, origin, size, out_size, shift, start)
        first = (centre - wide - unit) // (2 * unit) + 1
        end = -((unit - centre - wide) // (2 * unit))
    else:
        _, begin, length, unit = chroma_span(kind, i, origin, size, out_size, shift, start)
        first = begin // unit
        end = -(-(begin + length) // unit)
    first, end = max(first, low), min(end, high)
    return first, end - first


@loop
def chroma_taps(kind, origin, size, out_size, shift, plane):
    """Return the largest number of plane pixels that any position depends on."""
    taps = 1
    for i in range(out_size):
        taps = max(taps, chroma_position(kind, i, origin, size, out_size, shift, plane)[1])
    return taps


@loop
def fill_chroma_axis(kind, origin, size, out_size, sign, turn, shift, plane, taps, starts, weights):
    """Write the tables of one axis of the chroma planes.

    Parameters
    ----------
    kind, out_size, sign : int
        As in `fill_axis`; `turn` is its `shift`.
    origin, size : int
        The box along the axis, in pixels of the image.
    shift : int
        A plane pixel covers ``2 ** shift`` image pixels along the axis.
    plane : int
        Pixels of the plane along the axis.
    taps : int
        `chroma_taps(...)`.
    starts : uint32 (out_size,)
        First pixel, at most `plane - taps`, from the plane's start.
    weights : float32 (out_size * taps,)
    """
    for p in range(out_size):
        i = frame_position(p, sign, turn, out_size)
        first, count = chroma_position(kind, i, origin, size, out_size, shift, plane)
        start = min(first, plane - taps)
        shown = position_span(kind, i, size, out_size)[0]
        if kind == AXIS_TRIANGLE:
            centre, unit, wide = plane_triangle(kind, i, origin, size, out_size, shift, shown)
            one, two = triangle_line(centre, unit, wide, first)
            three = float32(1.0)
        else:
            area, begin, length, unit = chroma_span(kind, i, origin, size, out_size, shift, shown)
            one, two, three = span_weights(area, begin, length, unit, first, count)
        total = float32(0.0)
        for k in range(taps):
            tap = start + k - first
            weight = float32(0.0)
            if 0 <= tap < count:
                weight = plane_weight(kind == AXIS_TRIANGLE, tap, count, one, two, three)
            weights[p * taps + k] = weight
            total += weight
        starts[p] = start
        for k in range(taps):
            weights[p * taps + k] /= total
