"""Colour operations on one pixel: whole grey levels in float32 in, whole grey levels out.

Each is torchvision's on uint8 tensors (torchvision/transforms/v2/functional/_color.py): blends are clamped
to [0, 255] and truncated, not rounded. Where a blend is a whole number in exact arithmetic, rounding errors
decide the truncation, and the result may differ from torchvision's by one: never with factors like 0.5, for
a few per cent of all values with factors like 1.4, for almost none with drawn factors.
"""

from __future__ import annotations

from numpy import float32, int32

from ffcv_gpu.kernels._numba import body
from ffcv_gpu.kernels.codes import (
    AFFINE,
    BRIGHTNESS,
    CONTRAST,
    GRAYSCALE,
    HUE,
    POSTERIZE,
    SATURATION,
    SOLARIZE,
)

__all__ = ["color_pixel", "grey_of", "hue_and_range", "posterized", "truncated", "turned"]

# An affine map reaches whole numbers exactly (the brightest value of an image becomes 255), and float32 may
# land slightly below. Values that are not whole are at least 1/255 away from one.
HAIR = float32(1.0 / 1024.0)

# torchvision converts [0, 1] to whole levels by truncating this multiple.
LEVELS = float32(255.999)
ZERO, ONE, WHITE = float32(0.0), float32(1.0), float32(255.0)


@body
def truncated(value):
    """Return a float32 clipped to [0, 255] and truncated to a whole number."""
    return float32(int32(min(max(value, float32(0.0)), float32(255.0))))


@body
def grey_of(red, green, blue):
    """Return the grey level of a pixel, truncated: ITU-R 601-2 with torchvision's digits."""
    level = red * float32(0.2989) + float32(0.587) * green + float32(0.114) * blue
    return float32(int32(level))


@body
def posterized(value, bits):
    """Return the value with only its upper `bits` bits."""
    dropped = 8 - int32(bits)
    return float32((int32(value) >> dropped) << dropped)


@body
def hue_and_range(red, green, blue, high, low):
    """Return hue in turns, [0, 1), and saturation of a pixel in [0, 1] whose levels span `low` to `high`."""
    reach = high - low
    divisor = reach if reach > ZERO else ONE
    rc, gc, bc = (high - red) / divisor, (high - green) / divisor, (high - blue) / divisor
    sixth = float32(4.0) + gc - rc
    if high == red:
        sixth = bc - gc
    elif high == green:
        sixth = float32(2.0) + rc - bc
    hue = sixth * float32(1.0 / 6.0) + ONE
    return hue - ONE if hue >= ONE else hue, reach / (high if high > low else ONE)


@body
def turned(red, green, blue, shift):
    """Return a pixel with its hue shifted by `shift` turns, -0.5 to 0.5; the result is in [0, 1]."""
    level = float32(1.0 / 255.0)
    red, green, blue = red * level, green * level, blue * level
    high, low = max(red, max(green, blue)), min(red, min(green, blue))
    hue, saturation = hue_and_range(red, green, blue, high, low)
    hue = hue + shift
    hue = hue + ONE if hue < ZERO else hue
    hue = hue - ONE if hue >= ONE else hue
    sixth = hue * float32(6.0)
    sector = int32(sixth)
    rest = (sixth - float32(sector)) * saturation
    # never below 0: rest and saturation are at most 1
    falling, least = (ONE - rest) * high, (ONE - saturation) * high
    rising = (rest + (ONE - saturation)) * high
    if sector == 1:
        return falling, high, least
    if sector == 2:
        return least, high, rising
    if sector == 3:
        return least, falling, high
    if sector == 4:
        return rising, least, high
    if sector == 5:
        return high, least, falling
    return high, rising, least


@body
def color_pixel(code, red, green, blue, p0, p1, p2, p3, p4, p5):
    """Return the three levels of a pixel after one operation; `p0` to `p5` are its parameters.

    Nearly all operations are a factor and an offset per channel. For images of one channel, the caller skips
    SATURATION, HUE and GRAYSCALE, and otherwise passes the level as all three.
    """
    f0, f1, f2 = ONE, ONE, ONE
    a0, a1, a2 = ZERO, ZERO, ZERO
    if code == BRIGHTNESS:
        f0, f1, f2 = p0, p0, p0
    elif code in (CONTRAST, SATURATION, GRAYSCALE):
        other = p1 if code == CONTRAST else grey_of(red, green, blue)
        f0 = ONE - p0 if code == GRAYSCALE else p0
        f1, f2 = f0, f0
        a0 = other * (ONE - f0)
        a1, a2 = a0, a0
    elif code == SOLARIZE:
        f0, a0 = (-ONE, WHITE) if red >= p0 else (ONE, ZERO)
        f1, a1 = (-ONE, WHITE) if green >= p0 else (ONE, ZERO)
        f2, a2 = (-ONE, WHITE) if blue >= p0 else (ONE, ZERO)
    elif code == AFFINE:
        f0, f1, f2 = p0, p1, p2
        a0, a1, a2 = p3 + HAIR, p4 + HAIR, p5 + HAIR
    elif code == POSTERIZE:
        red, green, blue = posterized(red, p0), posterized(green, p0), posterized(blue, p0)
    elif code == HUE and p0 != ZERO:
        red, green, blue = turned(red, green, blue, p0)
        f0, f1, f2 = LEVELS, LEVELS, LEVELS
    return truncated(red * f0 + a0), truncated(green * f1 + a1), truncated(blue * f2 + a2)
