"""The encoded JPEGs are what their names say, by Pillow's decoder and by our scan of headers."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from benchmarks.gpu.variants import DAMAGES, damaged, encode, multi_scan, variants
from ffcv_gpu.errors import DecodeError
from ffcv_gpu.jpeg.facts import scan_jpeg

SUBSAMPLINGS = {"444": 0, "422": 1, "420": 2, "440": 3, "411": 4, "gray": 6}
ODDITIES = {
    "progressive": ("progressive",),
    "restart": ("restart markers",),
    "several scans": ("several scans",),
    "cmyk": ("CMYK",),
    "extended": ("extended sequential",),
}


@pytest.fixture(scope="module")
def photo(make_photo):
    return make_photo(90, 121, seed=3)


def by_pillow(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_each_variant_is_of_its_kind(photo):
    found = list(variants([photo], sizes=((5, 9),)))
    kinds = {file.kind for file in found}
    assert kinds == {*SUBSAMPLINGS, *ODDITIES, "rgb-coded", "optimised", "exif", "size"}
    for file in found:
        header = scan_jpeg(file.data)
        assert header.oddities == ODDITIES.get(file.kind, ()), file.name
        if file.kind in SUBSAMPLINGS:
            assert header.subsampling == SUBSAMPLINGS[file.kind]
        if file.kind == "exif":
            assert header.exif_orientation == int(file.name.split()[1])
        size = (5, 9) if file.kind == "size" else photo.shape[:2]
        decoded = by_pillow(file.data)
        assert decoded.shape == (*size, 3)
        if file.kind not in ("size", "gray"):
            assert np.abs(decoded - photo).mean() < 4, file.name


def test_each_of_several_scans_is_a_grey_image_of_its_own(photo):
    with Image.open(io.BytesIO(multi_scan(photo))) as image:
        image.draft("YCbCr", image.size)
        found = np.asarray(image)
    ycc = cv2.cvtColor(photo, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
    for k in range(3):
        grey = simplejpeg.encode_jpeg(np.ascontiguousarray(ycc[..., k : k + 1]), 90, "Gray", "Gray")
        assert np.array_equal(found[..., k], simplejpeg.decode_jpeg(grey, "Gray")[..., 0])


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_of_its_kind(photo, kind):
    good = encode(photo)
    bad = damaged(good, photo, kind)
    assert bad != good
    assert bad == damaged(good, photo, kind)
    if kind in ("header cut", "scan cut", "png"):
        with pytest.raises(DecodeError):
            scan_jpeg(bad)
    else:
        header = scan_jpeg(bad)
        assert (header.height, header.width) == photo.shape[:2]


def test_other_damage_is_refused(photo):
    with pytest.raises(ValueError, match="rust"):
        damaged(encode(photo), photo, "rust")
