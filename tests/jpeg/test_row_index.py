"""JPEGs with an index of their rows: the same pixels by any decoder, and which JPEGs get one."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from ffcv_gpu.format import JpegFlag
from ffcv_gpu.jpeg import row_index
from ffcv_gpu.jpeg.facts import scan_jpeg
from ffcv_gpu.jpeg.row_index import with_row_index
from ffcv_gpu.jpeg.scan import scan_jpegs
from ffcv_gpu.kernels import jpeg_rows
from tests.odd_jpegs import in_410, of_12_bits

SIZES = [(97, 131), (64, 96), (130, 33), (17, 300), (500, 375)]
SUBSAMPLINGS = ["444", "422", "420", "440", "411", "Gray"]
#: height of a row of MCUs
HIGH = {"444": 8, "422": 8, "420": 16, "440": 16, "411": 8, "Gray": 8}


def encoded(photo, subsampling, quality=90):
    if subsampling == "Gray":
        return simplejpeg.encode_jpeg(np.ascontiguousarray(photo[..., :1]), quality, "GRAY", "Gray")
    return simplejpeg.encode_jpeg(photo, quality, "RGB", subsampling)


def indexed(data):
    found = with_row_index(data, scan_jpeg(data))
    assert found is not None
    return found


def offsets_in(data):
    at = data.index(b"\xff\xef") + 4
    assert data[at : at + 6] == jpeg_rows.INDEX_NAME
    size = int.from_bytes(data[at - 2 : at], "big") - 8
    return np.frombuffer(data, ">u4", size // 4, at + 6).astype(int)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_all_decoders_see_the_same_pixels(make_photo, subsampling, size):
    before = encoded(make_photo(*size), subsampling)
    after = indexed(before)
    assert np.array_equal(simplejpeg.decode_jpeg(after), simplejpeg.decode_jpeg(before))
    for read in (lambda data: np.asarray(Image.open(io.BytesIO(data))),
                 lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)):  # fmt: skip
        assert np.array_equal(read(after), read(before))
    rows = -(-size[0] // HIGH[subsampling])
    assert len(offsets_in(after)) == rows
    header, was = scan_jpeg(after), scan_jpeg(before)
    assert header.flags == was.flags | JpegFlag.RESTART | JpegFlag.ROW_INDEX and header.oddities == ()
    assert header[:7] == was[:7]
    scanned = scan_jpegs(np.frombuffer(after, np.uint8), np.array([0]), np.array([len(after)]))
    assert scanned.facts["flags"] == [header.flags]


@pytest.mark.parametrize("subsampling", ["444", "420", "Gray"])
def test_each_row_begins_after_its_restart_marker(make_photo, subsampling):
    data = indexed(encoded(make_photo(200, 90), subsampling))
    scan, offsets = scan_jpeg(data).scan_offset, offsets_in(data)
    for row, offset in enumerate(offsets[:-1].tolist()):
        assert data[scan + offset - 2 : scan + offset] == bytes([0xFF, 0xD0 + row % 8])
    assert data[scan + offsets[-1] :] == b"\xff\xd9"
    assert data.count(b"\xff\xd0") >= 1


@pytest.mark.parametrize("quality", [1, 30, 75, 100])
@pytest.mark.parametrize("optimize", [False, True])
def test_all_qualities_and_tables_made_for_the_image(make_photo, quality, optimize):
    stream = io.BytesIO()
    Image.fromarray(make_photo(203, 311)).save(stream, "JPEG", quality=quality, optimize=optimize)
    before = stream.getvalue()
    after = indexed(before)
    assert np.array_equal(simplejpeg.decode_jpeg(after), simplejpeg.decode_jpeg(before))
    assert len(after) < 1.05 * len(before) + 200


def test_tables_without_a_code_for_a_whole_level_are_replaced(monkeypatch):
    """Each row of blocks is brighter than the one above: its level is larger than any difference so far."""
    stream, tried = io.BytesIO(), []
    ramp = np.tile(np.arange(64, dtype=np.uint8)[:, None, None] * 3, (1, 64, 3))
    Image.fromarray(ramp).save(stream, "JPEG", quality=95, optimize=True, subsampling=0)
    row_index.load_row_indexer()
    insert = row_index._insert
    monkeypatch.setattr(row_index, "_insert", lambda *given: tried.append(insert(*given)) or tried[-1])
    after = indexed(stream.getvalue())
    assert np.array_equal(simplejpeg.decode_jpeg(after), simplejpeg.decode_jpeg(stream.getvalue()))
    assert tried[0] is None and len(tried) == 2


def test_what_is_beside_the_picture_stays(make_jpeg):
    before = make_jpeg(90, 80, orientation=6, comment=b"a comment", icc_profile=b"p" * 3000)
    filled = before[:2] + b"\xff\xff" + before[2:] + b"behind the end"
    after = indexed(filled)
    image, was = Image.open(io.BytesIO(after)), Image.open(io.BytesIO(before))
    assert image.getexif() == was.getexif() and image.info["comment"] == b"a comment"
    assert image.info["icc_profile"] == was.info["icc_profile"]
    assert scan_jpeg(after).exif_orientation == 6 and after.endswith(b"\xff\xd9")


def test_natural_photographs(imagenet_jpegs):
    for path in imagenet_jpegs[::15]:
        before = path.read_bytes()
        after = with_row_index(before, scan_jpeg(before))
        if scan_jpeg(before).oddities:
            assert after is None
        else:
            assert np.array_equal(simplejpeg.decode_jpeg(after), simplejpeg.decode_jpeg(before))
            assert len(after) < 1.01 * len(before) + 100


def test_kinds_that_get_none(make_jpeg, make_photo):
    restarts = cv2.imencode(".jpg", make_photo(64, 64), [cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[1].tobytes()
    kinds = {
        "progressive": make_jpeg(64, 64, progressive=True), "CMYK": make_jpeg(64, 64, mode="CMYK"),
        "restart markers": restarts, "one row": make_jpeg(16, 500), "12 bits": of_12_bits(),
        "4:1:0": in_410(), "has one": indexed(make_jpeg(64, 64)),
    }  # fmt: skip
    for name, data in kinds.items():
        assert with_row_index(data, scan_jpeg(data)) is None, name


def test_damaged_scans_get_none_and_nothing_else_happens(make_jpeg):
    data, rng = make_jpeg(120, 90), np.random.default_rng(0)
    header = scan_jpeg(data)
    fine = 0
    for _ in range(400):
        bad = bytearray(data)
        for at in rng.integers(2, len(data) - 2, rng.integers(1, 5)):
            bad[at] = rng.integers(0, 256)
        try:
            found = scan_jpeg(bytes(bad))
        except Exception:  # noqa: BLE001 (damaged headers are not this module's)
            continue
        if min(found.height, found.width) > 2000:
            continue
        after = with_row_index(bytes(bad), found)
        fine += after is not None
        if after is not None:
            options = {"strict": False}
            try:
                expected = simplejpeg.decode_jpeg(bytes(bad), **options)
            except ValueError:
                continue
            assert np.array_equal(simplejpeg.decode_jpeg(after, **options), expected)
    assert 0 < fine < 400
    cut = data[: header.scan_offset + 200] + b"\xff\xd9"
    assert with_row_index(cut, scan_jpeg(cut)) is None


def test_names_agree():
    assert row_index._NAME == jpeg_rows.INDEX_NAME
