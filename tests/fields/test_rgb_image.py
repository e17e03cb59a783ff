"""What comes in, and the write mode, decide which bytes are stored; against Pillow and libjpeg-turbo."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from ffcv_gpu.fields import RGBImageField
from ffcv_gpu.format import JpegFlag
from tests.fields.stored import JPEG, RAW, Stored, opened, png


@pytest.mark.parametrize("make", [Image.fromarray, np.asarray, np.asfortranarray])
def test_pixels_are_raw_by_default(make_photo, make):
    photo = make_photo(40, 61)
    result = Stored(RGBImageField(), make(photo))
    assert (result.mode, result.size, result.note.mode) == (RAW, (40, 61), "raw")
    np.testing.assert_array_equal(result.pixels, photo)


@pytest.mark.parametrize(
    ("field", "quality"),
    [
        (RGBImageField(jpeg_quality=70), 70),
        (RGBImageField("jpg"), 90),
        (RGBImageField("jpg", jpeg_quality=55.0), 55),
        (RGBImageField("proportion", compress_probability=1), 90),
        (RGBImageField("smart", smart_threshold=7319), 90),
    ],
)
def test_pixels_become_jpeg_when_that_is_said(make_photo, field, quality):
    photo = make_photo(40, 61)
    result = Stored(field, Image.fromarray(photo))
    assert (result.mode, result.note.mode, result.note.reason) == (JPEG, "jpeg encoded", None)
    assert result.data == simplejpeg.encode_jpeg(photo, quality, "RGB", "420")


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, "path", "Path"])
@pytest.mark.parametrize("field", [RGBImageField(), RGBImageField("jpg"), RGBImageField(jpeg_quality=10)])
def test_jpeg_files_are_stored_as_they_are(make_jpeg, tmp_path, wrap, field):
    data = make_jpeg(40, 61, quality=87, comment="kept")
    value = data
    if isinstance(wrap, str):
        value = tmp_path / "photo.JPEG"
        value.write_bytes(data)
        value = str(value) if wrap == "path" else value
    else:
        value = wrap(data)
    result = Stored(field, value)
    assert (result.mode, result.size, result.data) == (JPEG, (40, 61), data)
    assert (result.note.mode, result.note.reason) == ("jpeg pass-through", None)
    assert result.flags == JpegFlag.DECODE_CHECKED


@pytest.mark.parametrize("options", [{"mode": "L"}, {"subsampling": "4:2:2"}, {"keep_rgb": True}])
def test_all_plain_kinds_pass_through(make_jpeg, options):
    data = make_jpeg(40, 61, **options)
    assert Stored(RGBImageField(), data).data == data


@pytest.mark.parametrize("kind", [{}, {"mode": "L"}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_raw_mode_decodes_jpegs(make_jpeg, kind):
    data = make_jpeg(40, 61, **kind)
    result = Stored(RGBImageField("raw"), data)
    assert (result.mode, result.note.mode) == (RAW, "raw")
    np.testing.assert_array_equal(result.pixels, np.asarray(opened(data).convert("RGB")))


@pytest.mark.parametrize(("field", "mode"), [(RGBImageField(), RAW), (RGBImageField("jpg"), JPEG),
                                             (RGBImageField("raw", jpeg_quality=90), RAW),
                                             (RGBImageField(jpeg_quality=90), JPEG)])  # fmt: skip
def test_other_image_files_are_treated_as_their_pixels(make_photo, field, mode):
    photo = make_photo(40, 61)
    result = Stored(field, png(photo))
    assert result.mode == mode
    assert result.data == Stored(field, photo).data


def test_the_same_photo_is_the_same_however_it_comes(make_jpeg, tmp_path):
    data = make_jpeg(40, 61, orientation=6)
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    images = [Stored(RGBImageField(), value) for value in (opened(data), data, path)]
    for image in images:
        np.testing.assert_array_equal(image.pixels, images[0].pixels)
        assert image.note.rotated and not image.note.turned


def test_proportion_is_drawn_by_the_place_in_the_file(make_photo, make_jpeg):
    field = RGBImageField("proportion", compress_probability=0.3)
    photo, jpeg = make_photo(8, 8), make_jpeg(8, 8)
    order = np.random.default_rng(0).permutation(3000)
    modes = np.empty(3000, int)
    for index in order:
        modes[index] = Stored(field, photo, int(index)).mode
    assert 0.25 < (modes == JPEG).mean() < 0.35
    assert [Stored(pickle.loads(pickle.dumps(field)), photo, i).mode for i in range(50)] == modes[
        :50
    ].tolist()
    for index in range(50):
        result = Stored(field, jpeg, index)
        assert result.mode == modes[index]
        assert (result.data == jpeg) == (result.mode == JPEG)


def test_more_probability_only_adds_jpegs(make_photo):
    photo = make_photo(8, 8)
    few, many = (RGBImageField("proportion", compress_probability=p) for p in (0.2, 0.6))
    pairs = [(Stored(few, photo, i).mode, Stored(many, photo, i).mode) for i in range(200)]
    assert set(pairs) == {(JPEG, JPEG), (RAW, RAW), (RAW, JPEG)}


@pytest.mark.parametrize(
    ("field", "side", "mode"),
    [
        (RGBImageField("smart"), 400, RAW),  # as FFCV: without a threshold nothing is compressed
        (RGBImageField("smart", smart_threshold=20 * 20 * 3), 20, RAW),
        (RGBImageField("smart", smart_threshold=20 * 20 * 3 - 1), 20, JPEG),
        (RGBImageField("smart", max_resolution=20, smart_threshold=20 * 20 * 3), 40, RAW),
        (RGBImageField("auto"), 32, RAW),
        (RGBImageField("auto"), 147, RAW),
        (RGBImageField("auto"), 148, JPEG),
        (RGBImageField("auto", smart_threshold=10), 32, JPEG),
    ],
)
def test_smart_and_auto_go_by_the_raw_size(make_photo, make_jpeg, field, side, mode):
    assert Stored(field, make_photo(side, side)).mode == mode
    assert Stored(field, make_jpeg(side, side)).mode == mode


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr"])
def test_pil_images_of_all_8_bit_modes(make_photo, mode):
    image = Image.fromarray(make_photo(40, 61)).convert(mode)
    np.testing.assert_array_equal(Stored(RGBImageField(), image).pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "WEBP", "TIFF", "PPM"])
def test_lossless_files_of_all_kinds(make_photo, file_format):
    photo, stream = make_photo(40, 61), io.BytesIO()
    Image.fromarray(photo).save(stream, file_format, **({"lossless": True} if file_format == "WEBP" else {}))
    np.testing.assert_array_equal(Stored(RGBImageField(), stream.getvalue()).pixels, photo)


def test_a_script_for_ffcv_may_give_no_probability():
    assert RGBImageField("jpg", 500, None, 90.0, None).jpeg_quality == 90


def test_a_subclass_that_overrides_encode_is_heard(make_photo):
    class Mirrored(RGBImageField):
        def encode(self, destination, value, malloc):
            super().encode(destination, value[:, ::-1], malloc)

    photo = make_photo(20, 30)
    result = Stored(Mirrored(), photo)
    np.testing.assert_array_equal(result.pixels, photo[:, ::-1])
    assert result.note.mode == "raw"
