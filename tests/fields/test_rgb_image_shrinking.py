"""Images that are too large: FFCV's sizes and OpenCV's pixels, however they are computed."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import simplejpeg

from ffcv_gpu.fields import RGBImageField
from ffcv_gpu.fields.rgb_image import resizer
from ffcv_gpu.format import JpegFlag
from ffcv_gpu.jpeg import rewrite
from tests.fields.stored import Stored, opened


@pytest.mark.parametrize("limit", [1, 7, 100, 125, 250, 333, 499, 500, 501])
@pytest.mark.parametrize("size", [(333, 500), (500, 333), (500, 500), (500, 3), (17, 9), (2100, 2100)])
def test_resizing_is_ffcvs_to_the_pixel(make_photo, limit, size):
    photo = make_photo(*size)
    original = np.array([photo.shape[1], photo.shape[0]])
    ratio = limit / original.max()
    expected = photo
    if ratio < 1:
        to = np.maximum((ratio * original).astype(int), 1)  # FFCV dies where a side would be 0
        expected = cv2.resize(photo, tuple(to.tolist()), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(resizer(photo, limit), expected)
    np.testing.assert_array_equal(Stored(RGBImageField("raw", limit), photo).pixels, expected)


@pytest.fixture
def compiled_resizer(monkeypatch):
    """Shrinking by compiled code, as a large dataset brings it; gone after the test."""
    monkeypatch.setattr(rewrite, "_compiled", None)
    rewrite.load_compiled_resizer()


@pytest.mark.parametrize("size", [(333, 500), (500, 3), (17, 9), (2100, 2100), (96, 64)])
def test_compiled_resizing_gives_the_same_bits(make_photo, compiled_resizer, size):
    photo = make_photo(*size, 3)
    for limit in (1, 7, 48, 100, 333):
        sides = rewrite.shrunk_sides(*size, limit)
        expected = photo if sides == size else cv2.resize(photo, sides[::-1], interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(resizer(photo, limit), expected)
        stored = Stored(RGBImageField("raw", limit), photo)
        np.testing.assert_array_equal(stored.pixels, expected)


@pytest.mark.parametrize("orientation", [1, 6])
def test_compiled_resizing_of_jpegs(make_jpeg, compiled_resizer, orientation):
    data = make_jpeg(90, 120, 4, orientation=orientation)
    expected = cv2.resize(np.asarray(opened(data)), (50, 37), interpolation=cv2.INTER_AREA)
    turned = np.rot90(expected, -1) if orientation == 6 else expected
    field = RGBImageField("raw", 50, exif="apply")
    np.testing.assert_array_equal(Stored(field, data).pixels, turned)
    np.testing.assert_array_equal(Stored(RGBImageField("raw", 50), opened(data)).pixels, expected)


def test_the_compiled_resizer_is_loaded_for_many_samples_that_may_shrink(monkeypatch):
    loads = []
    monkeypatch.setattr("ffcv_gpu.fields.rgb_image.load_compiled_resizer", lambda: loads.append(1))
    RGBImageField("raw").expect(10**6)
    RGBImageField("raw", 256).expect(100)
    assert not loads
    RGBImageField("raw", 256).expect(10_000)
    assert loads


# ---- dct_scaling


@pytest.mark.parametrize(("limit", "divisor"), [(150, 2), (149, 2), (76, 2), (75, 4), (37, 8), (10, 8)])
def test_dct_scaling_is_libjpegs_and_then_area(make_jpeg, limit, divisor):
    data = make_jpeg(201, 300, 5)
    sides = rewrite.shrunk_sides(201, 300, limit)
    with opened(data) as image:
        image.draft("RGB", (300 // divisor, 201 // divisor))
        small = np.asarray(image)
    assert small.shape == (-(-201 // divisor), -(-300 // divisor), 3)
    expected = (
        small if small.shape[:2] == sides else cv2.resize(small, sides[::-1], interpolation=cv2.INTER_AREA)
    )
    stored = Stored(RGBImageField("raw", limit, dct_scaling=True), data)
    np.testing.assert_array_equal(stored.pixels, expected)
    assert stored.size == Stored(RGBImageField("raw", limit), data).size


@pytest.mark.parametrize("limit", [None, 151, 299, 300])
def test_dct_scaling_leaves_images_that_stay_larger_alone(make_jpeg, limit):
    data = make_jpeg(201, 300, 5)
    assert Stored(RGBImageField("raw", limit, dct_scaling=True), data).data == (
        Stored(RGBImageField("raw", limit), data).data
    )


def test_dct_scaling_of_cmyk_is_a_plain_decode(make_jpeg):
    data = make_jpeg(80, 120, mode="CMYK")
    assert Stored(RGBImageField("raw", 30, dct_scaling=True), data).data == (
        Stored(RGBImageField("raw", 30), data).data
    )


def test_a_jpeg_that_is_too_large_is_encoded_again_with_its_own_subsampling(make_jpeg):
    for subsampling, named in (("4:4:4", "444"), ("4:2:2", "422"), ("4:2:0", "420")):
        data = make_jpeg(60, 90, subsampling=subsampling)
        pixels = resizer(np.asarray(opened(data)), 50)
        for field, quality in (
            (RGBImageField(max_resolution=50), 95),
            (RGBImageField("jpg", 50, None, 80), 80),
        ):
            result = Stored(field, data)
            assert result.note.mode == "jpeg encoded again" and result.note.reason == "longer side over 50"
            assert result.data == simplejpeg.encode_jpeg(pixels, quality, "RGB", named)
            assert result.flags == JpegFlag.DECODE_CHECKED | JpegFlag.TRANSCODED


def test_a_grey_jpeg_that_is_too_large_stays_grey(make_jpeg):
    result = Stored(RGBImageField(max_resolution=50), make_jpeg(60, 90, mode="L"))
    assert (opened(result.data).mode, result.components, result.size) == ("L", 1, (33, 50))


def test_a_pair_of_equal_numbers_is_a_resolution(make_photo):
    assert Stored(RGBImageField(max_resolution=(50, 50)), make_photo(60, 90)).size == (33, 50)
