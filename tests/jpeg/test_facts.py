"""What `scan_jpeg` reads from headers, against Pillow and libjpeg-turbo, and what it makes of rubbish."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ffcv_gpu.errors import DecodeError
from ffcv_gpu.format import JpegFlag
from ffcv_gpu.jpeg.facts import exif_orientation, is_jpeg, scan_jpeg

NVJPEG_NAMES = {"444": 0, "422": 1, "420": 2, "440": 3, "411": 4, "Gray": 6}


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (17, 33), (333, 500)])
@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411", "Gray"])
def test_size_and_subsampling_are_those_of_libjpeg(make_photo, size, subsampling):
    data = simplejpeg.encode_jpeg(make_photo(*size), 90, "RGB", subsampling)
    header = scan_jpeg(data)
    height, width, _, named = simplejpeg.decode_jpeg_header(data)
    assert (header.height, header.width) == (height, width) == size
    assert header.subsampling == NVJPEG_NAMES[subsampling] == NVJPEG_NAMES[named]
    assert (header.encoding, header.precision, header.end_offset) == (0xC0, 8, len(data))
    assert header.components == (1 if subsampling == "Gray" else 3)
    assert header.oddities == ()


def test_photographs_as_published(imagenet_jpegs):
    for path in imagenet_jpegs[::7]:
        header = scan_jpeg(path.read_bytes())
        with Image.open(path) as image:
            assert (header.width, header.height) == image.size
            assert header.components == len(image.getbands())
            assert header.exif_orientation == image.getexif().get(0x0112, 0)
            assert header.oddities == ()


@pytest.mark.parametrize(
    ("options", "flags", "encoding", "oddities"),
    [
        ({}, 0, 0xC0, ()),
        ({"progressive": True}, JpegFlag.MULTI_SCAN, 0xC2, ("progressive",)),
        ({"restart_marker_rows": 1}, JpegFlag.RESTART, 0xC0, ("restart markers",)),
        ({"keep_rgb": True}, JpegFlag.RGB_CODED, 0xC0, ()),
        ({"mode": "CMYK"}, JpegFlag.CMYK, 0xC0, ("CMYK",)),
        ({"mode": "L"}, 0, 0xC0, ()),
        (
            {"progressive": True, "restart_marker_rows": 1},
            JpegFlag.MULTI_SCAN | JpegFlag.RESTART,
            0xC2,
            ("progressive", "restart markers"),
        ),
    ],
)
def test_kinds(make_jpeg, options, flags, encoding, oddities):
    header = scan_jpeg(make_jpeg(40, 56, **options))
    # A progressive file's first scan (all DC) names every component: only the frame tells.
    assert header.flags | (flags & JpegFlag.MULTI_SCAN) == flags
    assert (header.encoding, header.oddities) == (encoding, oddities)


@pytest.mark.parametrize("length", [5, 13, 14, 15])
def test_only_a_whole_jfif_segment_says_that_colours_are_ycbcr(make_jpeg, length):
    """As in libjpeg, against an Adobe segment that says they are not; nvJPEG gets those wrong."""
    data = make_jpeg(16, 24)
    assert data[2:4] == b"\xff\xe0"
    plain = data[:2] + data[20:]
    jfif = b"\xff\xe0" + struct.pack(">H", 2 + length) + b"JFIF\0\1\1\0\0\1\0\1\0\0\0"[:length]
    adobe = b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0\0"
    both = plain[:2] + jfif + adobe + plain[2:]
    rgb = not np.array_equal(simplejpeg.decode_jpeg(both), simplejpeg.decode_jpeg(plain))
    assert rgb is (length < 14)
    assert scan_jpeg(both).flags == (JpegFlag.RGB_CODED if rgb else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_what_pillow_wrote(make_jpeg, orientation):
    assert scan_jpeg(make_jpeg(16, 16, orientation=orientation)).exif_orientation == orientation


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_in_both_byte_orders(order):
    head = b"II*\0" if order == "<" else b"MM\0*"
    block = head + struct.pack(f"{order}IHHHIHxxI", 8, 1, 0x0112, 3, 1, 6, 0)
    image = Image.Exif()
    image.load(b"Exif\0\0" + block)
    assert exif_orientation(b"Exif\0\0" + block) == exif_orientation(block) == image[0x0112] == 6


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"Exif\0\0",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\xff\xff",
        b"XX*\0\x08\0\0\0\1\0",
    ],
)
def test_exif_rubbish_says_nothing(block):
    assert exif_orientation(block) == 0


def test_16_bit_tables_are_noted(make_jpeg):
    plain = make_jpeg(32, 32)
    at = plain.index(b"\xff\xdb\x00\x43\x00") + 5
    table = b"".join(bytes((0, value)) for value in plain[at : at + 64])
    wide = plain[: at - 5] + b"\xff\xdb\x00\x83\x10" + table + plain[at + 64 :]
    np.testing.assert_array_equal(simplejpeg.decode_jpeg(wide), simplejpeg.decode_jpeg(plain))
    assert scan_jpeg(wide).flags == JpegFlag.TABLES_16BIT
    assert scan_jpeg(plain).flags == 0


def test_what_follows_the_image_is_passed_over(make_jpeg):
    data = make_jpeg(32, 32)
    assert scan_jpeg(data + b"trailer" * 9).end_offset == len(data)


def test_bytearrays_are_read_too(make_jpeg):
    data = make_jpeg(24, 32)
    assert scan_jpeg(bytearray(data)) == scan_jpeg(data)


def test_rows_fit_the_facts(make_jpeg):
    from ffcv_gpu.format import JPEG_FACTS

    header = scan_jpeg(make_jpeg(24, 32, orientation=6))
    row = (header.subsampling, header.encoding, header.components, header.exif_orientation, header.flags)
    assert np.array(row, JPEG_FACTS).tolist() == row


def test_every_cut_in_the_headers_is_an_error_that_names_a_byte(make_jpeg):
    data = make_jpeg(24, 32, orientation=3)
    for length in range(len(data) - 1):
        with pytest.raises(DecodeError, match=r"byte \d+"):
            scan_jpeg(data[:length])


@pytest.mark.parametrize("data", [b"", b"\xff", b"\xff\xd8", b"\x89PNG\r\n\x1a\n" * 4, b"\xff\xd8\xff\xd9"])
def test_what_is_no_jpeg_is_an_error(data):
    with pytest.raises(DecodeError, match="JPEG, byte"):
        scan_jpeg(data)


def test_is_jpeg(make_jpeg, make_photo):
    stream = io.BytesIO()
    Image.fromarray(make_photo(8, 8)).save(stream, "PNG")
    assert is_jpeg(make_jpeg(8, 8))
    assert not is_jpeg(stream.getvalue())
    assert not is_jpeg(b"")


@given(data=st.data())
def test_damaged_headers_raise_nothing_but_decode_errors(make_jpeg, data):
    jpeg = bytearray(make_jpeg(24, 32, orientation=3, progressive=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 6))):
        jpeg[data.draw(st.integers(0, min(700, len(jpeg) - 1)))] = data.draw(st.integers(0, 255))
    try:
        header = scan_jpeg(bytes(jpeg))
    except DecodeError:
        return
    assert header.height > 0 and header.width > 0 and 0 < header.scan_offset < header.end_offset <= len(jpeg)
