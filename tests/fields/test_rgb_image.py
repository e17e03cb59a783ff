"""Images: which bytes are stored for what comes in, against Pillow, OpenCV and libjpeg-turbo."""

from __future__ import annotations

import io
import pickle

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from ffcv_gpu.errors import PipelineError, SampleError
from ffcv_gpu.fields import RGBImageField
from ffcv_gpu.fields.rgb_image import resizer
from ffcv_gpu.format import JpegFlag
from ffcv_gpu.jpeg import rewrite
from ffcv_gpu.jpeg.facts import scan_jpeg
from ffcv_gpu.native import turbojpeg

JPEG, RAW = 0, 1


class Stored:
    """One image put through a field's `encode_sample`."""

    def __init__(self, field, value, index=0):
        row, self.payload = np.zeros(1, field.metadata_type), None

        def malloc(size):
            assert self.payload is None, "one payload for each image"
            self.payload = np.full(size, 99, np.uint8)
            return 4321, self.payload

        self.note = field.encode_sample(index, row, value, malloc)
        self.mode, width, height, pointer = row[0].item()
        self.size = height, width
        self.data = self.payload.tobytes()
        assert pointer == 4321
        subsampling, encoding, self.components, self.orientation, self.flags = self.note.facts
        if self.mode == JPEG:
            header = scan_jpeg(self.data)
            assert (header.height, header.width) == self.size
            assert (header.subsampling, header.encoding, header.components) == (
                subsampling, encoding, self.components
            )  # fmt: skip
            assert (self.flags & 31) == header.flags
        else:
            assert encoding == 0 and self.payload.size == height * width * 3

    @property
    def pixels(self):
        if self.mode == RAW:
            return self.payload.reshape(*self.size, 3)
        return np.asarray(Image.open(io.BytesIO(self.data)).convert("RGB"))


@pytest.fixture
def no_turbojpeg(monkeypatch):
    turbojpeg.library.cache_clear()
    monkeypatch.setenv("FFCV_GPU_TURBOJPEG", "off")
    yield
    turbojpeg.library.cache_clear()


def png(pixels, **options):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", **options)
    return stream.getvalue()


def opened(data):
    return Image.open(io.BytesIO(data))


# ---- decision 28: what arrives decides unless the mode is said


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


# ---- raw or JPEG, image by image


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


# ---- resizing


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


# ---- progressive, restart markers, CMYK

ODD = [({"progressive": True}, "progressive"), ({"restart_marker_rows": 1}, "restart markers")]


@pytest.mark.parametrize(("options", "why"), ODD)
def test_odd_jpegs_are_made_baseline_without_loss(make_jpeg, options, why):
    if turbojpeg.library() is None:
        pytest.skip("no libturbojpeg on this machine")
    data = make_jpeg(60, 90, orientation=3, **options)
    result = Stored(RGBImageField(), data)
    assert result.note.mode == "jpeg rewritten"
    assert result.note.reason == f"{why}: made baseline without loss"
    assert scan_jpeg(result.data).oddities == ()
    assert result.flags == JpegFlag.DECODE_CHECKED | JpegFlag.LOSSLESS_REWRITTEN
    assert result.orientation == 3 and result.note.rotated
    np.testing.assert_array_equal(result.pixels, np.asarray(opened(data)))


@pytest.mark.parametrize(("options", "why"), ODD)
def test_without_libturbojpeg_they_are_encoded_again(make_jpeg, options, why, no_turbojpeg):
    data = make_jpeg(60, 90, subsampling="4:2:2", **options)
    result = Stored(RGBImageField(), data)
    assert (result.note.mode, result.note.reason) == ("jpeg encoded again", why)
    assert result.data == simplejpeg.encode_jpeg(np.asarray(opened(data)), 95, "RGB", "422")


def test_cmyk_is_converted(make_jpeg):
    data = make_jpeg(60, 90, mode="CMYK")
    result = Stored(RGBImageField(), data)
    assert (result.note.mode, result.note.reason, result.components) == ("jpeg encoded again", "CMYK", 3)
    assert np.abs(result.pixels.astype(int) - np.asarray(opened(data).convert("RGB"))).mean() < 3
    raw = Stored(RGBImageField("raw"), data).pixels.astype(int)
    assert np.abs(raw - np.asarray(opened(data).convert("RGB"))).max() <= 1


# ---- EXIF


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


# ---- what Pillow makes RGB, we make RGB


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr"])
def test_pil_images_of_all_8_bit_modes(make_photo, mode):
    image = Image.fromarray(make_photo(40, 61)).convert(mode)
    np.testing.assert_array_equal(Stored(RGBImageField(), image).pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "WEBP", "TIFF", "PPM"])
def test_lossless_files_of_all_kinds(make_photo, file_format):
    photo, stream = make_photo(40, 61), io.BytesIO()
    Image.fromarray(photo).save(stream, file_format, **({"lossless": True} if file_format == "WEBP" else {}))
    np.testing.assert_array_equal(Stored(RGBImageField(), stream.getvalue()).pixels, photo)


# ---- bad input


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.zeros((8, 8), np.uint8), r"shape \(8, 8\)"),
        (np.zeros((8, 8, 4), np.uint8), r"shape \(8, 8, 4\)"),
        (np.zeros((8, 8, 1), np.uint8), r"shape \(8, 8, 1\)"),
        (np.zeros((8, 8, 3), np.float32), "dtype float32"),
        (np.zeros((8, 8, 3), np.uint16), "dtype uint16"),
        (np.zeros((0, 8, 3), np.uint8), r"shape \(0, 8, 3\)"),
        (np.zeros(100, np.uint8), "as bytes"),
        (7, "int is not an image"),
        (None, "NoneType is not an image"),
        ("/no/such/file.jpg", "cannot read '/no/such/file.jpg': No such file"),
        (b"", "unreadable image: 0 bytes"),
        (b"not an image", "unreadable image"),
        (b"\xff\xd8\xff\xe0", "unreadable image: JPEG, byte"),
        (np.zeros((65536, 1, 3), np.uint8), "1 x 65536 pixels; a side has 65535 at most"),
        (Image.new("I;16", (8, 8)), "more than 8 bits"),
        (Image.new("F", (8, 8)), "more than 8 bits"),
    ],
)
@pytest.mark.parametrize("field", [RGBImageField(), RGBImageField("jpg")])
def test_what_is_no_image_is_an_error(field, value, says):
    with pytest.raises(SampleError, match=says):
        Stored(field, value)


@pytest.mark.parametrize("kind", [{}, {"progressive": True}, {"mode": "CMYK"}])
@pytest.mark.parametrize("field", [RGBImageField(), RGBImageField("raw"), RGBImageField("jpg", 30)])
def test_a_damaged_jpeg_is_an_error_in_every_mode(make_jpeg, kind, field):
    data = make_jpeg(60, 90, **kind)
    for damaged in (data[: len(data) // 2], data[: len(data) // 2] + b"\xff\xd9"):
        with pytest.raises(SampleError, match=r"unreadable image.*mend or leave out"):
            Stored(field, damaged)


def test_the_header_check_does_not_decode(make_jpeg):
    data = make_jpeg(60, 90)
    damaged = data[: len(data) // 2] + b"\xff\xd9"
    result = Stored(RGBImageField(check="header"), damaged)
    assert (result.data, result.flags) == (damaged, 0)
    with pytest.raises(SampleError, match="cut off"):
        Stored(RGBImageField(check="header"), data[: len(data) // 2])


def test_a_truncated_png_is_an_error(make_photo):
    data = png(make_photo(60, 90))
    with pytest.raises(SampleError, match="unreadable image"):
        Stored(RGBImageField(), data[: len(data) // 2])
    with pytest.raises(SampleError, match="unreadable image: Pillow"):
        Stored(RGBImageField(), opened(data[: len(data) // 2]))


def test_a_good_image_after_a_bad_one(make_jpeg):
    field = RGBImageField()
    good = make_jpeg(60, 90)
    with pytest.raises(SampleError):
        Stored(field, good[:500])
    assert Stored(field, good).data == good
    assert Stored(field, make_jpeg(300, 200)).size == (300, 200)


@pytest.mark.parametrize(
    "arguments",
    [
        {"write_mode": "png"},
        {"max_resolution": 0},
        {"max_resolution": (256, 128)},
        {"max_resolution": "256"},
        {"smart_threshold": -1},
        {"jpeg_quality": 0},
        {"jpeg_quality": 101},
        {"compress_probability": 1.5},
        {"write_mode": "proportion", "compress_probability": None},
        {"exif": "turn"},
        {"check": "none"},
    ],
)
def test_arguments_are_checked(arguments):
    with pytest.raises(PipelineError, match=rf"RGBImageField: .*{list(arguments)[-1]}"):
        RGBImageField(**arguments)


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


CHROMA = {"4:2:0": 2, "4:2:2": 1, "4:4:4": 0}


@pytest.mark.parametrize("wish", CHROMA)
@pytest.mark.parametrize("came", CHROMA)
def test_chroma_is_made_coarser_never_finer(make_jpeg, wish, came):
    data = make_jpeg(60, 90, subsampling=came)
    stored = Stored(RGBImageField(subsampling=wish, jpeg_quality=90), data)
    finer = CHROMA[came] < CHROMA[wish]
    assert (stored.data == data) is not finer
    assert scan_jpeg(stored.data).subsampling == max(CHROMA[came], CHROMA[wish])
    if finer:
        assert stored.note.mode == "jpeg encoded again"
        assert stored.note.reason == f"chroma finer than {wish}"
        assert stored.data == simplejpeg.encode_jpeg(
            simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=False),
            90, colorsubsampling=wish.replace(":", ""),
        )  # fmt: skip


def test_pixels_get_the_chroma_asked_for_and_progressive_files_lose_theirs(make_jpeg, make_photo):
    pixels = Stored(RGBImageField("jpg", subsampling="4:4:4"), make_photo(60, 90))
    assert scan_jpeg(pixels.data).subsampling == 0
    progressive = make_jpeg(60, 90, subsampling="4:4:4", progressive=True)
    stored = Stored(RGBImageField(subsampling="4:2:0"), progressive)
    assert scan_jpeg(stored.data).subsampling == 2
    assert stored.note.reason == "progressive, chroma finer than 4:2:0"
    grey = make_jpeg(60, 90, mode="L")
    assert Stored(RGBImageField(subsampling="4:2:0"), grey).data == grey


def test_a_chroma_nobody_knows_is_an_error_and_none_is_not_noted():
    with pytest.raises(PipelineError, match="subsampling must be one of"):
        RGBImageField(subsampling="420")
    assert "subsampling" not in RGBImageField().write_settings()
    assert RGBImageField(subsampling="4:2:2").write_settings()["subsampling"] == "4:2:2"
