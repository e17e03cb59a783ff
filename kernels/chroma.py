"""Where output pixels lie on planes, and with what weights: on luma, and on chroma at its own resolution.

A chroma pixel covers ``2 ** shift`` image pixels along an axis. In units of a suitable fraction of a pixel,
everything stays a whole number for planes of any resolution: a plane pixel `t` covers [t, t + 1) * unit, an
output pixel [begin, begin + length). Where the box on the chroma plane is at least as large as the output,
areas are averaged as on luma; where chroma is enlarged, two pixels are blended by distance, as libjpeg's
"fancy" upsampling does before any resampling.

The weights of one output position are three numbers for any number of pixels: the first, each of the middle
ones, the last. Those of a triangle lie on two straight lines. Products must stay below `block.MAX_PRODUCT`
times four: they are held in 32 bits, because a GPU is slower with more.
"""

from __future__ import annotations

from numpy import float32, int32

from ffcv_gpu.kernels._numba import body
from ffcv_gpu.kernels.resample import AXIS_AREA, AXIS_POINT

__all__ = ["chroma_span", "plane_triangle", "span_weights", "tap_weight", "to_rgb", "triangle_line"]


@body
def chroma_span(kind, i, origin, size, out_size, shift, shown):
    """Return whether areas are averaged, and the begin, length and unit of output position `i` on a plane.

    Parameters
    ----------
    kind : int
        The filter on luma: AXIS_POINT, AXIS_AREA or AXIS_LINEAR.
    i : int
        Frame position.
    origin, size : int
        First pixel and length of the box, in pixels of the image.
    out_size, shift : int
    shown : int
        First pixel of the box that the position shows; only used for AXIS_POINT.
    """
    unit = int32(out_size << shift)
    begin = int32(origin * out_size + i * size)
    area = (shift == 0 and kind == AXIS_AREA) or (kind != AXIS_POINT and shift > 0 and size >= unit)
    if area or shift == 0:
        return area, begin, int32(size), unit
    if kind == AXIS_POINT:
        unit = int32(1 << shift)
        return area, int32(2 * (origin + shown) + 1 - unit), int32(2 * unit), int32(2 * unit)
    return area, int32(2 * begin + size - unit), int32(2 * unit), int32(2 * unit)


@body
def span_weights(area, begin, length, unit, start, taps):
    """Return the weights, float32, of the first, each middle and the last of `taps` pixels."""
    inverse = float32(1.0) / float32(length)
    last = float32(int32(begin + length - (start + taps - 1) * unit)) * inverse
    first = float32(int32((start + 1) * unit - begin)) * inverse if area else float32(1.0) - last
    return float32(1.0) if taps == 1 else first, float32(unit) * inverse, last


@body
def plane_triangle(kind, i, origin, size, out_size, shift, shown):
    """Return centre, unit and half width of the triangle around output position `i`, in half units.

    The parameters are those of `chroma_span`. The triangle is two output pixels or two plane pixels wide,
    whichever is more; one pixel of the plane, without `shift`, if `kind` is AXIS_POINT.
    """
    if kind == AXIS_POINT:
        return int32(2 * (origin + shown) + 1), int32(1 << shift), int32(2 << shift)
    unit = int32(out_size << shift)
    centre = int32(2 * origin * out_size + (2 * i + 1) * size)
    return centre, unit, int32(2 * max(int32(size), unit))


@body
def triangle_line(centre, unit, wide, start):
    """Return the first pixel's position in the triangle, and the step to the next; the edge is at 1."""
    inverse = float32(1.0) / float32(wide)
    return float32(int32((2 * start + 1) * unit - centre)) * inverse, float32(int32(2 * unit)) * inverse


@body
def tap_weight(antialias, k, taps, one, two, three):
    """Return the weight of the k-th of `taps` pixels.

    For a span, `one`, `two` and `three` are the first, middle and last weight; for a triangle, the results of
    `triangle_line` and the factor on the heights.
    """
    if antialias:
        return max(float32(1.0) - abs(one + float32(k) * two), float32(0.0)) * three
    return one if k == 0 else (three if k == taps - 1 else two)


@body
def to_rgb(luma, cb, cr):
    """Convert JPEG's YCbCr (JFIF 1.02) to red, green, blue: float32, neither rounded nor clipped."""
    cb -= float32(128.0)
    cr -= float32(128.0)
    red = luma + float32(1.402) * cr
    green = luma - float32(0.344136) * cb - float32(0.714136) * cr
    return red, green, luma + float32(1.772) * cb
