"""The writer's ways with JPEG bytes: strict check, decode, encode, lossless rewriting."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from ffcv_gpu.errors import BackendUnavailable, DecodeError, SampleError
from ffcv_gpu.format import JpegFlag
from ffcv_gpu.jpeg.facts import scan_jpeg
from ffcv_gpu.jpeg.rewrite import (
    Scratch,
    UnnamedChroma,
    check_jpeg,
    decode_rgb,
    encode_jpeg,
    lossless_baseline,
)
from ffcv_gpu.native import turbojpeg
from tests.odd_jpegs import in_410

KINDS = [
    {},
    {"mode": "L"},
    {"mode": "CMYK"},
    {"progressive": True},
    {"keep_rgb": True},
    {"subsampling": "4:4:4"},
]


@pytest.fixture
def fresh_search(monkeypatch):
    """The library is looked for once a process; here anew."""
    turbojpeg.library.cache_clear()
    yield monkeypatch
    turbojpeg.library.cache_clear()


def check(data):
    check_jpeg(data, scan_jpeg(data), Scratch())


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (64, 48), (333, 500)])
def test_good_files_pass_the_check(make_jpeg, options, size):
    check(make_jpeg(*size, **options))


@pytest.mark.parametrize("options", KINDS)
def test_a_file_cut_in_its_scan_fails_the_check_though_it_has_an_end(make_jpeg, options):
    data = make_jpeg(200, 300, **options)
    for share in (0.3, 0.6, 0.9):
        cut = data[: int(len(data) * share)] + b"\xff\xd9"
        with pytest.raises(DecodeError, match="libjpeg"):
            check(cut)


def test_the_check_finds_what_a_full_strict_decode_finds(make_jpeg):
    """Flipped bits: the cheap check (grey, an eighth) refuses exactly the files that the decoder refuses."""
    data = make_jpeg(120, 160, 3)
    begin = scan_jpeg(data).scan_offset
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        damaged[rng.integers(begin, len(data) - 2)] ^= 1 << rng.integers(8)
        try:
            simplejpeg.decode_jpeg(bytes(damaged), strict=True)
            expected = True
        except ValueError:
            expected = False
        try:
            check(bytes(damaged))
            found = True
        except DecodeError:
            found = False
        assert found == expected
        refused += not found
    assert 50 < refused < 300


@pytest.mark.parametrize("options", [{}, {"mode": "L"}, {"progressive": True}, {"keep_rgb": True}])
def test_pixels_are_libjpegs(make_jpeg, options):
    data = make_jpeg(57, 83, 2, **options)
    out = np.zeros(57 * 83 * 3, np.uint8)
    pixels = decode_rgb(data, scan_jpeg(data), out)
    assert np.shares_memory(pixels, out)
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_pixels_of_a_rare_chroma_sampling_are_pillows():
    data = in_410()
    with pytest.raises(UnnamedChroma, match=r"libjpeg: .*subsampling"):
        check(data)
    pixels = decode_rgb(data, scan_jpeg(data), np.zeros(16 * 32 * 3, np.uint8), 2)
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_damaged_tables_are_no_rare_chroma_sampling(make_jpeg):
    """libjpeg-turbo has the same words for both."""
    data = make_jpeg(57, 83)
    at = data.index(b"\xff\xc4") + 5
    data = data[:at] + b"\xff" * 16 + data[at + 16 :]
    with pytest.raises(DecodeError, match="libjpeg: "):
        decode_rgb(data, scan_jpeg(data), np.zeros(57 * 83 * 3, np.uint8))


def test_cmyk_pixels_are_pillows(make_jpeg):
    data = make_jpeg(57, 83, 2, mode="CMYK")
    pixels = decode_rgb(data, scan_jpeg(data), np.zeros(57 * 83 * 3, np.uint8))
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.abs(pixels.astype(int) - expected).max() <= 1
    assert expected.std() > 20


def test_ycck_pixels_are_pillows(make_photo):
    ink = np.concatenate([make_photo(40, 40), make_photo(40, 40, 1)[..., :1]], -1)
    data = simplejpeg.encode_jpeg(ink, 95, "CMYK", "444")
    header = scan_jpeg(data)
    assert header.flags == JpegFlag.CMYK
    pixels = decode_rgb(data, header, np.zeros(40 * 40 * 3, np.uint8))
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.abs(pixels.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("subsampling", "named"), [(0, "444"), (1, "422"), (2, "420"), (3, "440"), (-1, "420")]
)
def test_encoding_keeps_the_subsampling_and_the_picture(make_photo, subsampling, named):
    photo = make_photo(96, 128, 1)
    data = encode_jpeg(photo[:, ::-1], 95, subsampling)
    assert simplejpeg.decode_jpeg_header(data) == (96, 128, "YCbCr", named)
    back = np.asarray(Image.open(io.BytesIO(data))).astype(int)
    assert np.abs(back - photo[:, ::-1]).mean() < 4


def test_grey_pixels_stay_grey(make_photo):
    grey = np.repeat(make_photo(64, 64)[..., :1], 3, axis=2)
    data = encode_jpeg(grey, 100, 6)
    image = Image.open(io.BytesIO(data))
    assert image.mode == "L"
    assert np.abs(np.asarray(image).astype(int) - grey[..., 0]).max() <= 2


def test_sides_that_no_jpeg_has_are_an_error():
    with pytest.raises(SampleError, match="write_mode='raw'"):
        encode_jpeg(np.zeros((65501, 1, 3), np.uint8), 90)


def needs_libturbojpeg():
    if turbojpeg.library() is None:
        pytest.skip("no libturbojpeg on this machine")


@pytest.mark.parametrize(
    "options",
    [
        {"progressive": True},
        {"restart_marker_rows": 1},
        {"progressive": True, "restart_marker_rows": 2},
        {"progressive": True, "mode": "L"},
        {"progressive": True, "subsampling": "4:4:4", "quality": 100},
        {"progressive": True, "orientation": 6},
    ],
)
def test_rewriting_keeps_every_pixel_and_the_exif(make_jpeg, options):
    needs_libturbojpeg()
    data = make_jpeg(119, 161, 4, **options)
    result = lossless_baseline(data)
    assert result is not None
    plain, header = result
    assert header == scan_jpeg(plain)
    assert (header.encoding, header.oddities, header.flags & JpegFlag.RESTART) == (0xC0, (), 0)
    assert header.exif_orientation == options.get("orientation", 0)
    image = Image.open(io.BytesIO(plain))
    assert "progressive" not in image.info
    np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(data))))


def test_a_damaged_file_is_not_rewritten(make_jpeg):
    needs_libturbojpeg()
    data = make_jpeg(119, 161, progressive=True)
    assert lossless_baseline(data[: len(data) // 2] + b"\xff\xd9") is None


def test_a_library_that_loses_the_orientation_does_not_rewrite(make_jpeg, monkeypatch):
    data, kept = make_jpeg(16, 16, progressive=True, orientation=6), make_jpeg(16, 16, orientation=6)
    monkeypatch.setattr(turbojpeg, "library", lambda: object())
    monkeypatch.setattr(turbojpeg, "transform", lambda *_: kept)
    assert lossless_baseline(data)[0] == kept
    monkeypatch.setattr(turbojpeg, "transform", lambda *_: make_jpeg(16, 16))
    assert lossless_baseline(data) is None


def test_switched_off_there_is_no_rewriting(make_jpeg, fresh_search):
    fresh_search.setenv("FFCV_GPU_TURBOJPEG", "off")
    assert turbojpeg.library() is None
    assert lossless_baseline(make_jpeg(16, 16, progressive=True)) is None


def test_a_library_that_is_none_is_an_error(tmp_path, fresh_search):
    path = tmp_path / "libturbojpeg.so"
    path.write_bytes(b"not a library")
    fresh_search.setenv("FFCV_GPU_TURBOJPEG", str(path))
    with pytest.raises(BackendUnavailable, match="FFCV_GPU_TURBOJPEG"):
        turbojpeg.library()


def test_the_library_of_a_conda_environment_is_found(tmp_path, fresh_search):
    needs_libturbojpeg()
    maps = Path("/proc/self/maps").read_text().splitlines()
    real = next(line.split()[-1] for line in maps if "libturbojpeg" in line)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libturbojpeg_of_conda.so").symlink_to(real)
    turbojpeg.library.cache_clear()
    fresh_search.delenv("FFCV_GPU_TURBOJPEG", raising=False)
    fresh_search.setenv("CONDA_PREFIX", str(tmp_path))
    # A name that the system's loader does not know.
    fresh_search.setattr(turbojpeg, "_NAMES", ("libturbojpeg_of_conda.so",))
    assert turbojpeg.library()._name == str(tmp_path / "lib" / "libturbojpeg_of_conda.so")
