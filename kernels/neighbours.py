"""Pixels computed from other pixels of a finished image: sharpened, blurred, warped.

The formulas are torchvision's (transforms/v2/functional: `adjust_sharpness_image`, `gaussian_blur_image`,
and `_apply_grid_transform` with nearest interpolation).
"""

from __future__ import annotations

import math

from numpy import float32, int32, uint8

from ffcv_gpu.kernels._numba import body

__all__ = ["blended", "nearest_index", "reflected", "sharpened", "warp_position"]


@body
def reflected(index, size):
    """Return the pixel to use for one outside the image, reflected about the centre of the edge pixel.

    `index` must lie less than `size` outside.
    """
    inside = abs(index)
    return 2 * (size - 1) - inside if inside >= size else inside


@body
def sharpened(centre, ring, amount):
    """Return a pixel's value with a share of its difference to the blurred image added, uint8.

    Parameters
    ----------
    centre : int
    ring : int
        Sum of the eight values around it.
    amount : float32
        1 - sharpness factor.
    """
    # the mean with weights of 1/13 and 5/13, rounded; never a tie, as 13 is odd
    blurred = (2 * (ring + 5 * centre) + 13) // 26
    value = float32(centre) + amount * float32(blurred - centre)
    return uint8(int32(min(max(value, float32(0.0)), float32(255.0))))


@body
def warp_position(along_x, along_y, offset, x, y, width, height, size):
    """Return the source position along one axis that output pixel (x, y) shows, float32, in pixels.

    The coefficients are relative to the centre of the image; `size` is the length of the axis.
    """
    from_x = float32(x) - float32(width - 1) * float32(0.5)
    from_y = float32(y) - float32(height - 1) * float32(0.5)
    return along_x * from_x + along_y * from_y + offset + float32(size - 1) * float32(0.5)


@body
def nearest_index(position):
    """Return the whole number nearest to a position, ties to even, int32."""
    up = int32(math.floor(position + float32(0.5)))
    tie = position + float32(0.5) == float32(up)
    return up - int32(1) if tie and up % 2 != 0 else up


@body
def blended(value, keep, add, lowest, highest):
    """Return ``keep * value + add``, clipped to the two limits and rounded to uint8."""
    mixed = min(max(keep * float32(value) + add, lowest), highest)
    return uint8(int32(min(max(mixed, float32(0.0)), float32(255.0)) + float32(0.5)))
