"""JPEGs with an index for crops: which get one, what it says, and that all else stays as it was."""

from __future__ import annotations

import io
from contextlib import suppress

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from ffcv_gpu.errors import DecodeError
from ffcv_gpu.jpeg import crop_index
from ffcv_gpu.jpeg.crop_index import has_true_crop_index, with_crop_index, without_crop_index
from ffcv_gpu.jpeg.facts import scan_jpeg
from ffcv_gpu.kernels import jpeg_parts
from tests.odd_jpegs import in_410, of_12_bits

SIZES = [(97, 131), (64, 96), (130, 33), (17, 300), (500, 375)]
SUBSAMPLINGS = ["444", "422", "420", "440", "411", "Gray"]
#: height of a row of MCUs
HIGH = {"444": 8, "422": 8, "420": 16, "440": 16, "411": 8, "Gray": 8}
#: width of an MCU
WIDE = {"444": 8, "422": 16, "420": 16, "440": 8, "411": 32, "Gray": 8}


def encoded(photo, subsampling, quality=90):
    if subsampling == "Gray":
        return simplejpeg.encode_jpeg(np.ascontiguousarray(photo[..., :1]), quality, "GRAY", "Gray")
    return simplejpeg.encode_jpeg(photo, quality, "RGB", subsampling)


def indexed(data):
    found = with_crop_index(data, scan_jpeg(data))
    assert found is not None
    return found


def entries_of(data, components):
    """Return MCUs per piece; bit and DC coefficients of each piece but the first."""
    at = data.index(b"\xff\xef") + 4
    assert data[at : at + 6] == jpeg_parts.INDEX_NAME
    size = int.from_bytes(data[at - 2 : at], "big") - 14
    kind = [("bit", ">u4"), ("levels", ">i2", (components,))]
    return int.from_bytes(data[at + 6 : at + 8], "big"), np.frombuffer(data[at + 8 : at + 8 + size], kind)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_all_else_stays_as_it_was(make_photo, subsampling, size):
    before = encoded(make_photo(*size), subsampling)
    after = indexed(before)
    step, entries = entries_of(after, 1 if subsampling == "Gray" else 3)
    assert step == 64 // WIDE[subsampling]
    assert len(entries) == -(-size[0] // HIGH[subsampling]) * -(-size[1] // 64) - 1
    assert np.all(np.diff(entries["bit"].astype(int)) > 0)
    at = after.index(b"\xff\xef")
    assert after[:at] + after[at + 2 + int.from_bytes(after[at + 2 : at + 4], "big") :] == before
    assert without_crop_index(after, scan_jpeg(after).scan_offset) == before
    assert without_crop_index(before, scan_jpeg(before).scan_offset) == before
    header, was = scan_jpeg(after), scan_jpeg(before)
    assert header[:8] == was[:8] and header.oddities == ()
    for read in (simplejpeg.decode_jpeg, lambda data: np.asarray(Image.open(io.BytesIO(data))),
                 lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)):  # fmt: skip
        assert np.array_equal(read(after), read(before))


def test_levels_are_those_of_the_block_before():
    """Of grey images the DC coefficient is 8 times the level less 128, divided by its quantiser."""
    ramp = np.repeat(np.arange(5, 245, 10, dtype=np.uint8), 8)[:, None, None]
    data = indexed(simplejpeg.encode_jpeg(np.tile(ramp, (1, 40, 1)), 100, "GRAY", "Gray"))
    assert entries_of(data, 1)[1]["levels"][:, 0].tolist() == [
        8 * (level - 128) for level in range(5, 235, 10)
    ]


@pytest.mark.parametrize("subsampling", ["420", "Gray"])
def test_the_checksum_is_of_all_other_bytes(make_photo, subsampling):
    def is_true(data):
        header = scan_jpeg(bytes(data))
        return has_true_crop_index(np.frombuffer(data, np.uint8), header.scan_offset, header.components)

    plain = encoded(make_photo(90, 200), subsampling)
    data = indexed(plain)
    assert is_true(data) and not is_true(plain) and not is_true(data + b"\0")
    start = scan_jpeg(data).scan_offset
    for at in [4, *range(start - 40, start + 3), len(data) - 3]:  # not where it would be another kind of file
        bad = bytearray(data)
        bad[at] ^= 1
        with suppress(DecodeError):
            assert not is_true(bad), at


def test_once_more_gives_the_same(make_photo):
    once = indexed(encoded(make_photo(90, 70), "420"))
    assert indexed(once) == once


def test_what_is_beside_the_picture_stays(make_jpeg):
    before = make_jpeg(90, 80, orientation=6, comment=b"a comment", icc_profile=b"p" * 3000)
    filled = before[:2] + b"\xff\xff" + before[2:]
    after = indexed(filled + b"behind the end")
    assert after.endswith(b"\xff\xd9") and scan_jpeg(after).exif_orientation == 6
    assert without_crop_index(after, scan_jpeg(after).scan_offset) == filled
    image, was = Image.open(io.BytesIO(after)), Image.open(io.BytesIO(before))
    assert image.getexif() == was.getexif() and image.info["comment"] == b"a comment"


def test_natural_photographs(imagenet_jpegs):
    for path in imagenet_jpegs[::15]:
        before = path.read_bytes()
        header = scan_jpeg(before)
        after = with_crop_index(before, header)
        assert (after is None) == bool(header.oddities)
        if after is not None:
            assert without_crop_index(after, scan_jpeg(after).scan_offset) == before[: header.end_offset]
            assert len(after) <= header.end_offset + 16 + 10 * -(-header.height // 8) * -(-header.width // 64)


def test_kinds_that_get_none(make_jpeg, make_photo):
    restarts = cv2.imencode(".jpg", make_photo(64, 64), [cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[1].tobytes()
    kinds = {
        "progressive": make_jpeg(64, 64, progressive=True), "CMYK": make_jpeg(64, 64, mode="CMYK"),
        "restart markers": restarts, "one piece": make_jpeg(16, 64), "12 bits": of_12_bits(),
        "4:1:0": in_410(),
    }  # fmt: skip
    for name, data in kinds.items():
        assert with_crop_index(data, scan_jpeg(data)) is None, name


def test_a_scan_that_ends_early_or_late_gets_none(make_jpeg):
    data = make_jpeg(120, 90)
    scan = scan_jpeg(data).scan_offset
    for bad in (data[: scan + 200] + b"\xff\xd9", data[:-2] + bytes(20) + b"\xff\xd9",
                data[: scan + 50] + b"\xff\xd0" + data[scan + 50 :]):  # fmt: skip
        assert with_crop_index(bad, scan_jpeg(bad)) is None


def test_damaged_bytes_are_read_within_bounds(make_jpeg):
    data, rng, fine = make_jpeg(120, 90), np.random.default_rng(0), 0
    for _ in range(600):
        bad = bytearray(data)
        for at in rng.integers(2, len(data) - 2, rng.integers(1, 5)):
            bad[at] = rng.integers(0, 256)
        try:
            header = scan_jpeg(bytes(bad))
        except Exception:  # noqa: BLE001 (damaged headers are not this module's)
            continue
        if max(header.height, header.width) < 3000:
            fine += with_crop_index(bytes(bad), header) is not None
    assert 0 < fine < 600


def test_names_and_sizes_agree():
    assert crop_index._NAME == jpeg_parts.INDEX_NAME
    assert crop_index._SUM_BYTES == jpeg_parts.SUM_BYTES
