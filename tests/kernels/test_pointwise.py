"""Rounding to a byte."""

from __future__ import annotations

import numpy as np

from ffcv_gpu.kernels.pointwise import to_byte


def test_rounds_to_the_nearest_and_clips() -> None:
    for value in np.arange(-300, 600, 0.25, dtype=np.float32):
        assert to_byte(value) == min(max(np.floor(float(value) + 0.5), 0), 255)


def test_just_below_a_half_and_beyond_the_range() -> None:
    below = np.nextafter(np.float32(127.5), np.float32(0))
    assert to_byte(below) == 127
    assert to_byte(np.nextafter(np.float32(255), np.float32(300))) == 255
    assert to_byte(np.float32(1e30)) == 255
    assert to_byte(np.float32(-1e30)) == 0
