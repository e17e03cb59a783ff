"""The integrity section: its bytes as described, where it lies, and what of it is passed over or refused."""

from __future__ import annotations

import gzip
import json
import logging
import struct
from pathlib import Path

import numpy as np
import pytest

from ffcv_gpu.errors import FormatError
from ffcv_gpu.format import (
    MIN_PAGE_SIZE,
    TypeId,
    align_up,
    build_section,
    crc32c,
    open_beton,
    pack_descriptors,
    section_size,
    verify_structure,
)

IMAGE_FACTS = (
    2,
    0xC0,
    3,
    6,
    33,
)  # 4:2:0, baseline, 3 components, turned; decode checked, has restart markers
FIXTURES = Path(__file__).parents[1] / "fixtures"


def test_crc32c_has_the_known_answer_and_continues(files):
    assert crc32c(b"123456789") == files.crc32c(b"123456789") == 0xE3069283
    data = np.arange(1000, dtype=np.uint16)
    whole = files.crc32c(data.tobytes())
    for form in (data, data.tobytes(), bytearray(data.tobytes()), memoryview(data.tobytes())):
        assert crc32c(form) == whole
    assert crc32c(data[300:], crc32c(data[:300])) == whole
    assert crc32c(memoryview(b"")) == 0


def chunk(files, tag, payload):
    head = struct.pack("<4sIQ", tag, files.crc32c(payload), len(payload))
    return head, head + payload + bytes(-len(payload) % 8)


def sealed(files, chunks, *, version=1, algorithm=1):
    """A section put together by hand, from its description alone."""
    heads, bodies = zip(*(chunk(files, tag, payload) for tag, payload in chunks), strict=True)
    start = struct.pack(
        "<QIIHH", sum(map(len, bodies)), files.crc32c(b"".join(heads)), len(chunks), algorithm, version
    )
    return b"".join(bodies) + start + struct.pack("<I", files.crc32c(start)) + b"ffcv-gpu"


def chunks_of(files, path):
    """The chunks that describe a file written without a section, once one of this length is put into it."""
    raw, beton = path.read_bytes(), open_beton(path)
    layout, table = beton.layout, raw[beton.table_offset :]
    datas = [raw[ptr : ptr + size] for _, ptr, size in beton.allocations.tolist()]
    crcs = b"".join(struct.pack("<I", files.crc32c(data)) for data in datas)
    rows = struct.pack("<bBBBH", *IMAGE_FACTS) * beton.num_samples
    later = [(b"PCRC", crcs), (b"FACT", struct.pack("<IIQ", 0, 6, beton.num_samples) + rows)]
    later.append((b"INFO", b'{"a":[1,"b"],"z":null}'))

    def sums(length):
        header = raw[:16] + struct.pack("<Q", align_up(beton.table_offset, 8) + length)
        parts = (
            header,
            raw[24 : layout.metadata_offset],
            raw[layout.metadata_offset : layout.metadata_end],
            table,
        )
        return b"SUMS", struct.pack("<4IQ", *map(files.crc32c, parts), len(datas))

    length = len(sealed(files, [sums(0), *later]))
    return [sums(length), *later]


def test_the_section_has_the_bytes_of_its_description(tmp_path, files):
    by_hand = sealed(files, chunks_of(files, files.write(tmp_path / "plain", files.small(), section=False)))
    info = {"z": None, "a": [1, "b"]}
    path = files.write(tmp_path / "x", files.small(), info=info)
    section = open_beton(path).section
    assert path.read_bytes()[section.offset : section.offset + section.size_bytes] == by_hand


def test_the_section_ends_where_the_table_begins_and_nothing_follows_it(tmp_path, files):
    beton = open_beton(files.write(tmp_path / "x", files.small(), per_page=2))
    section = beton.section
    assert section.offset + section.size_bytes == beton.table_offset
    assert section.offset == beton.data_end == beton.layout.data_offset + 3 * MIN_PAGE_SIZE
    assert beton.size_bytes == beton.table_offset + 24 * 15
    assert beton.table_offset % 8 == 0
    assert beton.facts("image").tolist() == [(2, 0xC0, 3, 6, 33)] * 5
    assert beton.facts("blob") is None


def test_a_file_without_pages_has_its_section_behind_the_metadata(tmp_path, files):
    columns = [("a", TypeId.INT, [1, 2, 3])]
    beton = open_beton(files.write(tmp_path / "x", columns, info={"by": "test"}))
    assert beton.section.offset == align_up(24 + 1041 + 3 * 8, 8)
    assert beton.size_bytes == beton.table_offset == beton.section.offset + beton.section.size_bytes
    assert beton.section.info == {"by": "test"}
    files.check(beton, columns)


def test_a_file_of_version_1_stays_readable(tmp_path, files):
    # Written once by `files.write(..., files.small(7), per_page=4)`; not to be written again.
    path = tmp_path / "x"
    path.write_bytes(gzip.decompress((FIXTURES / "section_v1.beton.gz").read_bytes()))
    beton = open_beton(path)
    files.check(beton, files.small(7))
    assert beton.facts("image").tolist() == [(2, 0xC0, 3, 6, 33)] * 7
    assert beton.section.info == {"writer": "tests", "fields": {"image": {"write_mode": "raw"}}}
    assert verify_structure(beton) == []


def test_unknown_chunks_are_passed_over(tmp_path, files):
    chunks = chunks_of(files, files.write(tmp_path / "plain", files.small(), section=False))
    # The header's sum counts the section's bytes, so the newcomer takes the place of as many old ones.
    chunks[-1] = (b"NEWS", b"x" * 22)
    beton = open_beton(files.write(tmp_path / "x", files.small(), section=sealed(files, chunks)))
    files.check(beton, files.small())
    assert beton.section.info == {}


@pytest.mark.parametrize("change", [{"version": 2}, {"algorithm": 7}])
def test_a_section_of_the_future_is_passed_over_with_a_warning(change, tmp_path, caplog, files):
    chunks = chunks_of(files, files.write(tmp_path / "plain", files.small(), section=False))
    path = files.write(tmp_path / "x", files.small(), section=sealed(files, chunks, **change))
    with caplog.at_level(logging.WARNING):
        beton = open_beton(path)
    assert "unknown here" in caplog.text
    assert beton.section is None
    files.check(beton, files.small())


def test_bytes_of_somebody_else_in_the_sections_place_are_passed_over(tmp_path, files):
    somebody = np.random.default_rng(0).bytes(1336)
    beton = open_beton(files.write(tmp_path / "x", files.small(), section=somebody))
    assert beton.section is None
    files.check(beton, files.small())


@pytest.mark.parametrize(
    ("tag", "payload", "message"),
    [
        (b"SUMS", b"", "no complete SUMS"),
        (b"SUMS", struct.pack("<4IQ", 0, 0, 0, 0, 1 << 60), "payload checksums for 1152921504606846976"),
        (b"PCRC", bytes(4 * 14), "14 payload checksums for 15"),
        (b"FACT", b"", "facts are truncated"),
        (b"FACT", struct.pack("<IIQ", 0, 6, 1 << 62), "do not match"),
        (b"FACT", struct.pack("<IIQ", 0, 0, 5), "do not match"),
        (b"FACT", struct.pack("<IIQ", 9, 6, 5) + bytes(30), "do not match"),
        (b"INFO", b"{", "not JSON"),
        (b"INFO", b"\xff\xfe\xfa", "not JSON"),
        (b"INFO", b"[" * 100_000, "not JSON"),
        (b"INFO", b"[1]", "not a JSON object"),
    ],
)
def test_a_section_that_sums_right_and_says_nonsense_is_refused(tag, payload, message, tmp_path, files):
    chunks = chunks_of(files, files.write(tmp_path / "plain", files.small(), section=False))
    chunks = [(t, payload if t == tag else p) for t, p in chunks]
    path = files.write(tmp_path / "x", files.small(), section=sealed(files, chunks))
    with pytest.raises(FormatError, match=message):
        open_beton(path)


@pytest.mark.parametrize("length", [1 << 63, 1 << 24, 1])
def test_a_footer_that_claims_more_or_less_than_there_is(length, tmp_path, files):
    start = struct.pack("<QIIHH", length, 0, 1, 1, 1)
    footer = start + struct.pack("<I", files.crc32c(start)) + b"ffcv-gpu"
    path = files.write(tmp_path / "x", files.small(), section=footer)
    with pytest.raises(FormatError, match=r"integrity section, byte \d+"):
        open_beton(path)


def test_what_does_not_belong_together_is_not_sealed(tmp_path, files):
    beton = open_beton(files.write(tmp_path / "x", files.small()))
    raw = {"header": beton.data[:24].tobytes(), "descriptors": pack_descriptors(beton.fields)}
    parts = raw | {"metadata": beton.metadata, "allocations": beton.allocations, "info": {}}
    crcs = beton.section.payload_crcs
    with pytest.raises(FormatError, match="14 payload checksums for 15"):
        build_section(**parts, payload_crcs=crcs[1:], facts={})
    with pytest.raises(FormatError, match="facts of shape"):
        build_section(**parts, payload_crcs=crcs, facts={"image": beton.facts("image")[1:]})


def test_info_is_json_and_the_same_whatever_the_order():
    one, two = {"b": 1, "a": {"y": 2, "x": 3}}, {"a": {"x": 3, "y": 2}, "b": 1}
    counts = {"num_entries": 0, "num_samples": 1, "num_facts": 0}
    assert section_size(**counts, info=one) == section_size(**counts, info=two)
    with pytest.raises(ValueError, match="not JSON compliant"):
        section_size(**counts, info={"a": float("nan")})
    assert json.dumps(one) != json.dumps(two)
