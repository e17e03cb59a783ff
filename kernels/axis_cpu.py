"""Tables of one axis of one sample: for each output position, its first source pixel and the weights.

Made once per sample, so that the loops over pixels only load, multiply and add.
"""

from __future__ import annotations

import math

from numpy import float32

from ffcv_gpu.kernels._numba import body, loop
from ffcv_gpu.kernels.codes import RESAMPLE_ANTIALIAS, RESAMPLE_NEAREST, RESAMPLE_NONE
from ffcv_gpu.kernels.resample import (
    antialias_start,
    antialias_weight,
    area_start,
    area_weight,
    frame_position,
    linear_fraction,
)

__all__ = ["AXIS_AREA", "AXIS_LINEAR", "AXIS_POINT", "AXIS_TRIANGLE", "axis_filter", "axis_taps", "fill_axis"]

AXIS_POINT = 0
AXIS_AREA = 1
AXIS_LINEAR = 2
AXIS_TRIANGLE = 3


@loop
def axis_filter(resample, h, w, out_h, out_w):
    """Return what a filter does along both axes.

    Nothing, if the sizes agree; and OpenCV averages areas only if neither axis is enlarged.
    """
    if (h == out_h and w == out_w) or resample in (RESAMPLE_NONE, RESAMPLE_NEAREST):
        return AXIS_POINT
    if resample == RESAMPLE_ANTIALIAS:
        return AXIS_TRIANGLE
    return AXIS_AREA if h >= out_h and w >= out_w else AXIS_LINEAR


@loop
def axis_taps(kind, size, out_size):
    """Return how many weights each output position gets; `codes.max_taps` bounds it."""
    if kind == AXIS_POINT or size == 1:
        return 1
    if kind == AXIS_LINEAR:
        return 2
    if kind == AXIS_AREA:
        return size // out_size if size % out_size == 0 else 2 + (size - 2) // out_size
    return min(size, (2 * max(size, out_size) + out_size - 1) // out_size)


@body
def opencv_start(i, size, out_size):
    """Return floor(i * size / out_size) as OpenCV's float64 has it: now and then one too small.

    Its `1 / (out_size / size)` may come out a hair below the true scale, and then the floor of a product
    that should be whole is the pixel before. That pixel is what FFCV's users have been training on
    (ten of 224 columns when a crop is 144 wide), so it is what they get.
    """
    return math.floor(float(i) * (1.0 / (float(out_size) / float(size))))


@body
def first_tap(kind, i, size, out_size):
    """Return the first source pixel of output position `i`, before it is moved inside the crop."""
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
        AXIS_POINT and so on.
    size, out_size : int
        Pixels of the crop and of the output along the axis.
    sign, shift : int
        Output position p shows frame position `sign * p + shift`.
    step : int
        What one source pixel adds to `starts`.
    taps : int
        `axis_taps(kind, size, out_size)`.
    starts : uint32 (out_size,)
        First source pixel, at most `size - taps`, times `step`.
    weights : float32 (out_size * taps,)
        Weights of the pixels from there on; they add up to 1.
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
