"""Colour operations on a finished row of uint8 values."""

from __future__ import annotations

from numpy import float32, uint8

from ffcv_gpu.kernels._numba import loop
from ffcv_gpu.kernels.codes import AFFINE, CONTRAST, GRAYSCALE, HUE, SATURATION
from ffcv_gpu.kernels.color import color_pixel

__all__ = ["change_row"]


@loop
def change_row(values, channels, code, params):
    """Apply one operation to a row of interleaved values.

    Parameters
    ----------
    values : uint8 (n * channels,)
    channels : int
        1 or 3. SATURATION, HUE and GRAYSCALE do not change images of one channel.
    code : int
    params : float32 (>= columns of the code,)
    """
    one, two = params[0], params[1] if code in (CONTRAST, AFFINE) else float32(0.0)
    three, four, five, six = float32(0.0), float32(0.0), float32(0.0), float32(0.0)
    if code == AFFINE:
        three, four, five, six = params[2], params[3], params[4], params[5]
    if channels == 1 and code in (SATURATION, HUE, GRAYSCALE):
        return
    # a single channel stands for all three
    step = 1 if channels == 3 else 0
    for i in range(0, values.size, channels):
        red, green, blue = float32(values[i]), float32(values[i + step]), float32(values[i + 2 * step])
        red, green, blue = color_pixel(code, red, green, blue, one, two, three, four, five, six)
        values[i + 2 * step], values[i + step], values[i] = uint8(blue), uint8(green), uint8(red)
