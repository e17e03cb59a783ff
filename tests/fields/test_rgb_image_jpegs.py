"""JPEGs that are not stored as they come: progressive, restart markers, CMYK, too much chroma."""

from __future__ import annotations

import numpy as np
import pytest
import simplejpeg

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields import RGBImageField
from ffcv_gpu.format import JpegFlag
from ffcv_gpu.jpeg.facts import scan_jpeg
from ffcv_gpu.native import turbojpeg
from tests.fields.stored import Stored, opened
from tests.odd_jpegs import in_410

ODD = [({"progressive": True}, "progressive"), ({"restart_marker_rows": 1}, "restart markers")]


@pytest.fixture
def no_turbojpeg(monkeypatch):
    turbojpeg.library.cache_clear()
    monkeypatch.setenv("FFCV_GPU_TURBOJPEG", "off")
    yield
    turbojpeg.library.cache_clear()


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


def test_a_rare_chroma_sampling_is_encoded_again():
    """simplejpeg cannot decode 4:1:0; Pillow, OpenCV and FFCV's writer can."""
    data = in_410()
    result = Stored(RGBImageField(), data)
    assert (result.note.mode, result.note.reason) == ("jpeg encoded again", "rare chroma sampling")
    assert scan_jpeg(result.data).subsampling == 2
    for stored in (result, Stored(RGBImageField("raw"), data)):
        np.testing.assert_array_equal(stored.pixels, np.asarray(opened(data)))


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
