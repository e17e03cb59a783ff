"""Shrinking is OpenCV's INTER_AREA, to the bit."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ffcv_gpu.kernels.shrink_cpu import scratch_bytes, shrink


def shrunk(image, size):
    scratch = np.full(scratch_bytes(image.shape[:2], size), 255, np.uint8)  # NaN, if it were read
    return shrink(image, np.empty((*size, 3), np.uint8), scratch)


def by_opencv(image, size):
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


def is_whole(source, size):
    return source[0] % size[0] == 0 and source[1] % size[1] == 0


@pytest.mark.parametrize("source", [(375, 500), (333, 500), (500, 3), (17, 9), (7, 1201), (64, 64), (2, 3)])
def test_every_bit_is_opencvs(source):
    rng = np.random.default_rng(sum(source))
    image = rng.integers(0, 256, (*source, 3), np.uint8)
    sizes = {tuple(max(1, int(side * share)) for side in source) for share in rng.uniform(0.02, 1, 60)}
    sizes |= {(source[0], max(1, source[1] - 1)), (max(1, source[0] - 1), source[1]), (1, source[1])}
    compared = 0
    for size in sizes:
        if not is_whole(source, size):
            np.testing.assert_array_equal(shrunk(image, size), by_opencv(image, size), str(size))
            compared += 1
    assert compared


def test_all_pairs_of_small_sides():
    """Positions that fall on a pixel's border, or a hair beside it, by OpenCV's float64."""
    rng = np.random.default_rng(0)
    for side in range(2, 44):
        image = rng.integers(0, 256, (side, 45, 3), np.uint8)
        for out in range(1, side + 1):
            size = out, 44
            np.testing.assert_array_equal(shrunk(image, size), by_opencv(image, size), str((side, size)))
            turned = image.transpose(1, 0, 2)  # not contiguous
            expected = by_opencv(np.ascontiguousarray(turned), size[::-1])
            np.testing.assert_array_equal(shrunk(turned, size[::-1]), expected, str((side, size)))


def test_flat_images_stay_flat():
    for value in (0, 1, 254, 255):
        image = np.full((101, 73, 3), value, np.uint8)
        assert (shrunk(image, (64, 50)) == value).all()


def test_a_read_only_image_needs_no_second_compilation():
    from ffcv_gpu.kernels.shrink_cpu import shrink_rows

    image = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    shrunk(image, (13, 19))
    image.flags.writeable = False
    shrunk(image, (13, 19))
    assert len(shrink_rows.signatures) == 1


@pytest.mark.parametrize(
    ("source", "out"),
    [
        ((20, 30, 3), (21, 30, 3)),
        ((20, 30, 3), (20, 31, 3)),
        ((20, 30, 4), (10, 15, 4)),
        ((20, 30, 3), (0, 15, 3)),
    ],
)
def test_what_is_no_shrinking_is_refused(source, out):
    with pytest.raises(ValueError, match="cannot shrink"):
        shrink(np.zeros(source, np.uint8), np.zeros(out, np.uint8), np.zeros(1 << 16, np.uint8))


def test_a_scratch_that_is_too_small_is_refused():
    need = scratch_bytes((20, 30), (13, 19))
    with pytest.raises(ValueError, match="scratch"):
        shrink(np.zeros((20, 30, 3), np.uint8), np.zeros((13, 19, 3), np.uint8), np.zeros(need - 4, np.uint8))
