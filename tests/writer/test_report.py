"""The printed report."""

from __future__ import annotations

import pytest

from ffcv_gpu.writer.report import Tally, WriteReport


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (
            1,
            [
                "a: 1 sample, 9 bytes,",
                "  1 image was rotated by its EXIF",
                "  1 image with an EXIF rotation, which",
            ],
        ),
        (
            2,
            [
                "a: 2 samples, 9 bytes,",
                "  2 images were rotated by their EXIF",
                "  2 images with an EXIF rotation, which",
            ],
        ),
    ],
)
def test_one_is_not_many(number, expected):
    report = WriteReport("a", number, 9, Tally(rotated=2 * number, turned=number), 1.0)
    for line, begin in zip(str(report).splitlines(), expected, strict=True):
        assert line.startswith(begin)
