"""EXIF orientations: ignored and noted, or applied as Pillow applies them."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from ffcv_gpu.fields import RGBImageField
from ffcv_gpu.fields.exif import orientation_in
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


def other(kind, pixels, orientation):
    """A file of `kind` without loss, with an EXIF orientation unless that is 0."""
    exif, stream = Image.Exif(), io.BytesIO()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(stream, kind, exif=exif, lossless=True)
    return stream.getvalue()


@pytest.mark.parametrize("orientation", range(9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_other_formats_are_counted_and_turned_only_if_asked(make_photo, kind, orientation):
    photo = make_photo(40, 61)
    data = other(kind, photo, orientation)
    ignored, applied = (Stored(RGBImageField("raw", exif=exif), data) for exif in ("ignore", "apply"))
    np.testing.assert_array_equal(ignored.pixels, photo)
    assert ignored.orientation == orientation
    assert (ignored.note.rotated, ignored.note.turned) == (orientation > 1, False)
    np.testing.assert_array_equal(applied.pixels, np.asarray(ImageOps.exif_transpose(opened(data))))
    assert (applied.note.rotated, applied.note.turned) == (orientation > 1, orientation > 1)


def test_a_tiff_is_always_turned_and_not_counted(make_photo):
    data = other("TIFF", make_photo(40, 61), 6)
    for exif in ("ignore", "apply"):
        result = Stored(RGBImageField(exif=exif), data)
        assert result.size == (61, 40) and not result.note.rotated


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize(
    ("ending", "expected"), [(b"", 0), (b"eXIf", 0), (b"\xff" * 8, 0), (b"\0" * 40, 0), (None, 6)]
)
def test_an_orientation_at_the_end_is_found_and_a_damaged_one_is_none(make_photo, ending, expected):
    plain = png(make_photo(9, 9))
    head, end = plain[:-12], plain[-12:]
    tiff = b"MM\0*" + struct.pack(">IHHHIHH", 8, 1, 0x0112, 3, 1, 6, 0)
    assert orientation_in(head + (chunk(b"eXIf", tiff) + end if ending is None else ending)) == expected
    assert orientation_in(head + chunk(b"eXIf", tiff)[:18]) == 0


@pytest.mark.parametrize("data", [b"", b"RIFF", b"RIFF....WAVE", b"GIF89a", b"\x89PNG"])
def test_other_files_have_no_orientation_that_is_known(data):
    assert orientation_in(data) is None
