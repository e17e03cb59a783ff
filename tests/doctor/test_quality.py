"""The quality of a JPEG told by its tables, against the quality at which others stored it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ffcv_gpu.doctor.quality import quality_of


@pytest.mark.parametrize("quality", [*range(5, 100, 10), 51, 90, 96, 100])
def test_what_pillow_and_opencv_were_told(make_jpeg, make_photo, quality):
    assert quality_of(make_jpeg(16, 16, quality=quality, subsampling="4:4:4", optimize=True)) == quality
    made = cv2.imencode(".jpg", make_photo(16, 16), [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    assert quality_of(made) == quality


def test_a_table_behind_others_fill_bytes_and_16_bits(make_jpeg):
    data = make_jpeg(16, 16, quality=70, comment=b"x" * 300)
    at = data.index(b"\xff\xdb")
    assert quality_of(data[:at] + b"\xff" + data[at:]) == 70
    table = np.frombuffer(data[at + 5 : at + 69], np.uint8).astype(">u2").tobytes()
    chroma = b"\xff\xdb\x00\x43\x01" + bytes([1]) * 64
    assert quality_of(data[:at] + chroma + b"\xff\xdb\x00\x83\x10" + table + data[at + 69 :]) == 70


def test_none_without_a_table(make_jpeg):
    data = make_jpeg(16, 16)
    assert quality_of(data[:2]) is None
    assert quality_of(b"\xff\xd8" + data[data.index(b"\xff\xc0") :]) is None
