"""Which source pixels an output pixel depends on along one axis, and with what weights.

Everything is exact: sizes and positions are whole numbers, so each bound is a floor division and each
weight one division of two whole numbers. (At 65535 pixels, a float32 position has only eight fractional bits;
float64 is slow on a GPU.) Source pixel `t` covers [t, t + 1) of the crop; output pixel `i` of `out_size`
covers [i, i + 1) * size / out_size.

Sources of the formulas: OpenCV, modules/imgproc/src/resize.cpp (`computeResizeAreaTab`, and the `area_mode`
branch of `resize`); Pillow, src/libImaging/Resample.c (`precompute_coeffs`, `bilinear_filter`), which
torchvision's antialiased resize follows.
"""

from __future__ import annotations

from numpy import float32

from ffcv_gpu.kernels._numba import body
from ffcv_gpu.kernels.codes import RESAMPLE_ANTIALIAS, RESAMPLE_NEAREST, RESAMPLE_NONE

__all__ = [
    "AXIS_AREA",
    "AXIS_LINEAR",
    "AXIS_POINT",
    "AXIS_TRIANGLE",
    "antialias_end",
    "antialias_start",
    "antialias_weight",
    "area_end",
    "area_start",
    "area_weight",
    "axis_filter",
    "frame_position",
    "linear_fraction",
    "nearest_pixel",
]

# The filters along an axis.
AXIS_POINT = 0
AXIS_AREA = 1
AXIS_LINEAR = 2
AXIS_TRIANGLE = 3


@body
def axis_filter(resample, h, w, out_h, out_w):
    """Return the filter along both axes.

    AXIS_POINT if the sizes agree; like OpenCV, areas are averaged only if neither axis is enlarged.
    """
    if (h == out_h and w == out_w) or resample in (RESAMPLE_NONE, RESAMPLE_NEAREST):
        return AXIS_POINT
    if resample == RESAMPLE_ANTIALIAS:
        return AXIS_TRIANGLE
    return AXIS_AREA if h >= out_h and w >= out_w else AXIS_LINEAR


@body
def frame_position(index, sign, shift, size):
    """Return the frame position that output pixel `index` shows: `sign * index + shift`.

    Positions outside the frame are reflected at its first and last pixel, once, then clamped. (Where they are
    to have a fill value, an operation overwrites them.)
    """
    position = abs(sign * index + shift)
    return max(min(position, 2 * (size - 1) - position), 0)


@body
def nearest_pixel(i, size, out_size):
    """Return the source pixel that has the centre of output pixel `i`.

    This is Pillow's NEAREST and torch's "nearest-exact"; where the centre lies between two pixels, it is the
    second, and in Pillow whichever its floating point rounds to. (cv2.INTER_NEAREST takes the pixel in which
    `i` begins: a mask would be shifted against its image, by half an output pixel when it shrinks.)
    """
    return (2 * i + 1) * size // (2 * out_size)


@body
def area_start(i, size, out_size):
    """Return the first source pixel that output pixel `i` touches."""
    return i * size // out_size


@body
def area_end(i, size, out_size):
    """Return the source pixel after the last one that output pixel `i` touches."""
    return ((i + 1) * size + out_size - 1) // out_size


@body
def area_weight(tap, i, size, out_size):
    """Return the share of output pixel `i` that source pixel `tap` covers, float32; 0 if they do not overlap.

    When enlarging, this is also the linear weight below: at most two source pixels share an output pixel.
    """
    first = max(tap * out_size, i * size)
    last = min((tap + 1) * out_size, (i + 1) * size)
    return float32(max(last - first, 0)) / float32(size)


@body
def linear_fraction(i, size, out_size):
    """Return the weight, float32, of the source pixel after `area_start`, whose own weight is the rest.

    OpenCV's `area_mode` linear filter, which INTER_AREA uses along both axes if one of them is enlarged,
    except where OpenCV's float64 rounds wrongly: see `axis_cpu.opencv_start`.
    """
    start = i * size // out_size
    over = max((i + 1) * size - (start + 1) * out_size, 0)
    return float32(over if start + 1 < size else 0) / float32(size)


@body
def antialias_start(i, size, out_size):
    """Return the first source pixel under the triangle around output pixel `i`."""
    wide = 2 * max(size, out_size)
    return max(((2 * i + 1) * size - wide - out_size) // (2 * out_size) + 1, 0)


@body
def antialias_end(i, size, out_size):
    """Return the source pixel after the last one under the triangle around output pixel `i`."""
    wide = 2 * max(size, out_size)
    return min(((2 * i + 1) * size + wide + out_size - 1) // (2 * out_size), size)


@body
def antialias_weight(tap, i, size, out_size):
    """Return the height of the triangle around output pixel `i` at source pixel `tap`, float32 in [0, 1].

    The triangle is as wide as two output pixels when shrinking and two source pixels when enlarging. The
    caller divides by the sum over the taps inside the crop.
    """
    wide = 2 * max(size, out_size)
    apart = abs((2 * tap + 1) * out_size - (2 * i + 1) * size)
    return float32(max(wide - apart, 0)) / float32(wide)
