"""Class names, source ids and skipped samples: as the README describes them, nonsense refused."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

import ffcv_gpu.format
from ffcv_gpu.errors import FormatError
from ffcv_gpu.format import Skipped, open_beton, pack_source_ids
from ffcv_gpu.format.notes import unpack_source_ids

TEXTS = ["ant/1.jpg", "", "ü/€.png", "x" * 300, "z"]


def test_source_ids_have_the_bytes_of_the_description():
    text = "".join(TEXTS).encode()
    offsets = [0, 9, 9, 19, 319, 320]
    assert pack_source_ids(TEXTS) == struct.pack("<Q6Q", 5, *offsets) + text


def test_names_and_sources_are_read_from_the_file(tmp_path, files):
    info = {"class_names": ["ant", "bée"], "skipped": [[7, "a/b", "unreadable"], [9, 9, "too large"]]}
    beton = open_beton(files.write(tmp_path / "x", files.small(), info=info, sources=TEXTS))
    assert beton.class_names == ("ant", "bée")
    assert beton.skipped == (Skipped(7, "a/b", "unreadable"), Skipped(9, 9, "too large"))
    ids = beton.source_ids
    assert list(ids) == TEXTS and len(ids) == 5
    assert (ids[2], ids[-1], ids[1:3]) == (TEXTS[2], "z", TEXTS[1:3])
    with pytest.raises(IndexError):
        ids[5]
    assert not ids._text.flags.writeable
    files.check(beton, files.small())


def test_a_file_without_them_says_so(tmp_path, files):
    for section in (True, False):
        beton = open_beton(files.write(tmp_path / "x", files.small(), section=section))
        assert (beton.class_names, beton.source_ids, beton.skipped) == (None, None, ())


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"", "0 source ids for 5"),
        (struct.pack("<Q", 1 << 62), f"{1 << 62} source ids for 5"),
        (struct.pack("<Q", 5) + bytes(40), "source ids for 5"),  # an offset is missing
        (struct.pack("<7Q", 5, 0, 0, 9, 3, 3, 3) + b"abc", "out of order"),
        (struct.pack("<7Q", 5, 0, 0, 0, 0, 0, 1 << 40) + b"abc", "out of order"),
        (struct.pack("<7Q", 5, 1, 1, 1, 1, 1, 3) + b"abc", "out of order"),
    ],
)
def test_places_that_cannot_be_right_are_refused(payload, says):
    with pytest.raises(ValueError, match=says):
        unpack_source_ids(np.frombuffer(payload, np.uint8), 5)


def test_a_wrong_number_of_sources_refuses_the_file(tmp_path, files):
    path = files.write(tmp_path / "x", files.small(), sources=TEXTS[:4])
    with pytest.raises(FormatError, match=r"x: integrity section, byte \d+: 4 source ids for 5 samples"):
        open_beton(path)


def test_text_that_is_none_is_an_error_of_its_sample_alone():
    ids = unpack_source_ids(np.frombuffer(struct.pack("<4Q", 2, 0, 1, 3) + b"a\xff\xfe", np.uint8), 2)
    assert ids[0] == "a"
    with pytest.raises(FormatError, match="source id of sample 1 is not UTF-8"):
        ids[1]


IMAGES = {"modes": {}, "transcoded": {}, "rotated": 0, "turned": 0}


@pytest.mark.parametrize(
    ("info", "says"),
    [
        ({"class_names": "ant"}, "'class_names' in its INFO must be a list"),
        ({"class_names": ["ant", 3]}, "class names are not a list of str"),
        ({"skipped": {"a": 1}}, "'skipped' in its INFO must be a list"),
        ({"writer": None}, "'writer' in its INFO must be a str"),
        ({"fields": []}, "'fields' in its INFO must be a dict"),
        ({"parts": {}}, "list of parts is malformed"),
        ({"parts": [3]}, "list of parts is malformed"),
        ({"parts": [{"samples": "3"}]}, "list of parts is malformed"),
        ({"parts": [{"samples": 3, "images": {}}]}, "images are malformed"),
        ({"images": {"modes": 1, "transcoded": {}, "rotated": 0, "turned": 0}}, "images are malformed"),
        (
            {"images": {"modes": {"raw": "1"}, "transcoded": {}, "rotated": 0, "turned": 0}},
            "counts of images",
        ),
        ({"skipped": [[1, 2]]}, "list of skipped samples is malformed"),
        ({"shard": {"index": 0, "count": 1, "conversion": {}}}, "of a shard is malformed"),
        ({"images": IMAGES, "shard": 3}, "of a shard is malformed"),
        ({"images": IMAGES, "shard": {"index": 3, "count": 3, "conversion": {}}}, "of a shard is malformed"),
        ({"images": IMAGES, "shard": {"index": 0, "count": 3}}, "of a shard is malformed"),
    ],
)
def test_nonsense_in_info_refuses_the_file(info, says, tmp_path, files):
    path = files.write(tmp_path / "x", files.small(), info=info)
    with pytest.raises(FormatError, match=says):
        open_beton(path)


def test_the_readme_names_everything_that_is_written(tmp_path, make_jpeg):
    from ffcv_gpu.fields import RGBImageField
    from ffcv_gpu.writer import DatasetWriter, merge_files

    text = Path(ffcv_gpu.format.__file__).with_name("README.md").read_text()
    path = tmp_path / "a.beton"
    options = {"class_names": ["a"], "on_error": "skip", "progress": False}
    writer = DatasetWriter(path, {"i": RGBImageField()}, num_workers=1, **options)
    writer.from_indexed_dataset([(make_jpeg(9, 9),), (b"none",)], source_ids=str)
    merge_files([path, path], tmp_path / "b.beton")
    shard = writer.from_indexed_dataset([(make_jpeg(9, 9),)], shard=(0, 1)).path
    tags, members = set(), set()
    for name in (path, tmp_path / "b.beton", shard):
        beton = open_beton(name)
        members |= set(beton.section.info)
        at, end = beton.section.offset, beton.table_offset - 32
        while at < end:
            tag, _, length = struct.unpack("<4sIQ", beton.data[at : at + 16].tobytes())
            tags.add(tag.decode())
            at += 16 + -(-length // 8) * 8
    assert tags == {"SUMS", "PCRC", "FACT", "SRCS", "INFO"}
    assert members == {"writer", "fields", "class_names", "images", "skipped", "parts", "shard"}
    assert all(f"| `{word}` |" in text for word in tags | members)
