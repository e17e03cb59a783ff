"""Measurements of a finished image: its mean grey level, and histograms that become tables of values.

The formulas are torchvision's (transforms/v2/functional/_color.py: `adjust_contrast_image`,
`autocontrast_image`, `equalize_image`); its equalisation is Pillow's.
"""

from __future__ import annotations

from numpy import float32, int32, uint8

from ffcv_gpu.kernels._numba import body
from ffcv_gpu.kernels.color import grey_of
from ffcv_gpu.kernels.pass_codes import REMAP_EQUALIZE

__all__ = ["equalize_step", "equalized", "grey_level", "mean_of", "remapped", "stretched"]


@body
def grey_level(red, green, blue):
    """Return the grey level of a pixel of uint8 values, rounded down, int32."""
    return int32(grey_of(float32(red), float32(green), float32(blue)))


@body
def mean_of(total, count):
    """Return the mean of whole numbers from their sum and count, float32."""
    return float32(total) / float32(count)


@body
def stretched(value, lowest, highest):
    """Return `value` with the range [lowest, highest] of its channel stretched to [0, 255], uint8."""
    if lowest == highest:
        return uint8(value)
    scale = float32(highest - lowest) * float32(1.0 / 255.0)
    return uint8(int32(min(float32(value - lowest) / scale, float32(255.0))))


@body
def equalize_step(pixels, at_highest):
    """Return the number of pixels per level, from the number of all and of those with the highest value."""
    return (pixels - at_highest) // 255


@body
def equalized(below, step):
    """Return the level of a value with `below` pixels below it; `step` is not 0."""
    return uint8(min((below + step // 2) // step, 255))


@body
def remapped(mode, counts, base, pixels, value):
    """Return the new value for `value` of a channel, from all of the channel's counts: one thread's work.

    Parameters
    ----------
    mode : int
        REMAP_STRETCH or REMAP_EQUALIZE.
    counts : int32, 1-D
        Number of pixels per value; the channel's 256 counts begin at `base`.
    pixels : int
        Number of pixels in the image.
    value : int
    """
    lowest, highest, below = int32(255), int32(0), int32(0)
    for v in range(256):
        count = counts[base + v]
        if count > 0:
            lowest = min(lowest, int32(v))
            highest = max(highest, int32(v))
        if v < value:
            below += count
    if mode != REMAP_EQUALIZE:
        return stretched(value, lowest, highest)
    step = equalize_step(pixels, counts[base + highest])
    return equalized(below, step) if step > 0 else uint8(value)
