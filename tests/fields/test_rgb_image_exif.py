"""EXIF orientations: ignored and noted, or applied as Pillow applies them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from ffcv_gpu.fields import RGBImageField
from ffcv_gpu.fields.rgb_image import resizer
from tests.fields.stored import Stored, opened, png


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["raw", "jpg"])
def test_exif_is_applied_on_request_as_pillow_does(make_jpeg, orientation, mode):
    data = make_jpeg(40, 61, orientation=orientation)
    expected = np.asarray(ImageOps.exif_transpose(opened(data)))
    for value in (data, opened(data)):
        result = Stored(RGBImageField(mode, jpeg_quality=100, exif="apply"), value)
        assert result.size == expected.shape[:2]
        if mode == "raw":
            np.testing.assert_array_equal(result.pixels, expected)
        else:
            assert np.abs(result.pixels.astype(int) - expected).mean() < 4
        assert result.orientation == 1
        assert (result.note.rotated, result.note.turned) == (orientation > 1, orientation > 1)
    passed = Stored(RGBImageField(exif="apply"), data)
    assert (passed.data == data) == (orientation == 1)
    assert passed.note.reason == ("EXIF rotation" if orientation > 1 else None)


@pytest.mark.parametrize("mode", ["raw", None])
def test_exif_is_ignored_and_noted_by_default(make_jpeg, mode):
    data = make_jpeg(40, 61, orientation=8)
    result = Stored(RGBImageField(mode), data)
    assert (result.size, result.orientation) == ((40, 61), 8)
    assert result.note.rotated and not result.note.turned


def test_turning_and_shrinking_together(make_jpeg):
    data = make_jpeg(40, 61, orientation=6)
    expected = np.rot90(resizer(np.asarray(opened(data)), 30), -1)
    np.testing.assert_array_equal(Stored(RGBImageField("raw", 30, exif="apply"), data).pixels, expected)
    both = Stored(RGBImageField(None, 30, exif="apply"), data)
    assert (both.size, both.note.reason) == ((30, 19), "longer side over 30, EXIF rotation")


def test_other_formats_are_not_turned_unless_asked(make_photo):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = png(make_photo(40, 61), exif=exif)
    assert Stored(RGBImageField(), data).size == (40, 61)
