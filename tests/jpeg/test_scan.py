"""Facts of many JPEGs at once: as the writer noted them, as libjpeg names them, with words for bad ones."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg

from ffcv_gpu.errors import DecodeError
from ffcv_gpu.fields import RGBImageField
from ffcv_gpu.format import JPEG_FACTS, JpegFlag, open_beton
from ffcv_gpu.jpeg.base import DecodeStatus
from ffcv_gpu.jpeg.facts import scan_jpeg
from ffcv_gpu.jpeg.scan import NO_FACTS, Scanned, scan_jpegs
from ffcv_gpu.writer import DatasetWriter

MakeJpeg = Callable[..., bytes]


def scan(files: list[bytes]) -> Scanned:
    lengths = np.array([len(data) for data in files], np.int64)
    return scan_jpegs(np.frombuffer(b"".join(files), np.uint8), np.cumsum(lengths) - lengths, lengths)


def test_sizes_and_facts_are_those_of_libjpeg(
    make_photo: Callable[..., npt.NDArray[np.uint8]],
) -> None:
    names = {"444": 0, "422": 1, "420": 2, "440": 3, "411": 4, "Gray": 6}
    files = [
        simplejpeg.encode_jpeg(make_photo(9 + 7 * k, 50 - k), 90, "RGB", name) for k, name in enumerate(names)
    ]
    scanned = scan(files)
    for k, data in enumerate(files):
        height, width, _, name = simplejpeg.decode_jpeg_header(data)
        assert (scanned.heights[k], scanned.widths[k]) == (height, width)
        components = 1 if name == "Gray" else 3
        assert scanned.facts[k].tolist() == (names[name], 0xC0, components, 0, 0)
    assert (scanned.status == DecodeStatus.GOOD).all()
    assert scanned.precisions.tolist() == [8] * len(files)
    assert scanned.reasons == {}


def test_bad_images_have_no_facts_but_a_reason(make_jpeg: MakeJpeg) -> None:
    good = make_jpeg(24, 32, orientation=6)
    files = [good, b"", good[:100], good, b"\x89PNG" * 9, good[:-2], good]
    scanned = scan(files)
    assert sorted(scanned.reasons) == [1, 2, 4, 5]
    for index, reason in scanned.reasons.items():
        with pytest.raises(DecodeError) as caught:
            scan_jpeg(files[index])
        assert reason == str(caught.value)
        assert scanned.status[index] == DecodeStatus.BAD_JPEG
        assert scanned.facts[index].tolist() == NO_FACTS
        assert scanned.heights[index] == scanned.widths[index] == scanned.precisions[index] == 0
    for index in (0, 3, 6):
        assert scanned.facts[index].tolist() == (2, 0xC0, 3, 6, 0)
        assert scanned.status[index] == DecodeStatus.GOOD


def test_facts_equal_those_that_the_writer_stored(
    make_jpeg: MakeJpeg, make_photo: Callable[..., npt.NDArray[np.uint8]], tmp_path: Path
) -> None:
    samples = [
        make_jpeg(40, 50),
        make_photo(8, 9),
        make_jpeg(33, 17, subsampling="4:4:4", orientation=3),
        make_jpeg(24, 32, keep_rgb=True),
        make_jpeg(16, 16, mode="L"),
    ]
    path = str(tmp_path / "small.beton")
    writer = DatasetWriter(path, {"image": RGBImageField()}, num_workers=1)
    writer.from_indexed_dataset([(sample,) for sample in samples])
    beton = open_beton(path)
    stored = np.fromfile(path, np.uint8)
    scanned = scan_jpegs(stored, beton.offsets("image"), beton.lengths("image"))
    noted = beton.facts("image")
    assert noted is not None
    by_writer = np.uint16(JpegFlag.DECODE_CHECKED | JpegFlag.TRANSCODED | JpegFlag.LOSSLESS_REWRITTEN)
    expected = noted.copy()
    expected["flags"] &= ~by_writer
    jpegs = [0, 2, 3, 4]
    np.testing.assert_array_equal(scanned.facts[jpegs], expected[jpegs])
    assert list(scanned.reasons) == [1]  # raw pixels
    assert scanned.facts[1].tolist() == NO_FACTS
    assert expected["encoding"][1] == 0
    column = beton.column("image")
    np.testing.assert_array_equal(scanned.heights[jpegs], column["height"][jpegs])
    np.testing.assert_array_equal(scanned.widths[jpegs], column["width"][jpegs])


def test_strided_and_narrow_arguments(make_jpeg: MakeJpeg) -> None:
    good = make_jpeg(24, 32)
    stored = np.frombuffer(good * 3, np.uint8).copy()
    places = np.array([[0, 9], [len(good), 9], [2 * len(good), 9]], np.int64)[:, 0]
    scanned = scan_jpegs(stored, places, np.full(3, len(good), np.int64))
    assert scanned.heights.tolist() == [24] * 3
    assert stored.flags.writeable  # the caller's own is left alone


def test_no_images() -> None:
    none = np.zeros(0, np.int64)
    scanned = scan_jpegs(np.zeros(0, np.uint8), none, none)
    assert scanned.facts.shape == (0,)
    assert scanned.facts.dtype == JPEG_FACTS
    assert scanned.reasons == {}


def test_an_image_outside_the_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="outside the memory"):
        scan_jpegs(np.zeros(10, np.uint8), np.array([5]), np.array([6]))


def test_importing_brings_no_compiler() -> None:
    code = "import sys, ffcv_gpu.jpeg.scan, ffcv_gpu.jpeg.routing; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
