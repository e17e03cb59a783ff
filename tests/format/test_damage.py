"""Damaged, truncated and hostile files: refused by name and place, never read outside, never believed."""

from __future__ import annotations

import os
import struct
import tracemalloc

import numpy as np
import pytest

from ffcv_gpu.errors import FormatError
from ffcv_gpu.format import (
    MIN_PAGE_SIZE,
    RECORD_DTYPES,
    TypeId,
    open_beton,
    verify_structure,
)


def flip(path, bit):
    with open(path, "r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def structure(beton):
    """Every byte that is neither a payload nor padding: header to metadata, and section to table."""
    behind = range(beton.data_end, beton.table_offset + beton.allocations.nbytes)
    return [*range(beton.layout.metadata_end), *behind]


def test_every_flipped_bit_of_the_structure_is_noticed(tmp_path, files):
    info, sources = {"class_names": ["a", "b"], "skipped": [[3, "k", "no"]]}, ["x/1", "", "y", "z", "ü"]
    path = files.write(tmp_path / "x", files.small(), info=info, sources=sources)
    beton = open_beton(path)
    arguments = [b for k in range(5) for b in range(24 + 1041 * k + 17, 24 + 1041 * (k + 1))]
    bits = [8 * byte + bit for byte in sorted(set(structure(beton)) - set(arguments)) for bit in range(8)]
    rng = np.random.default_rng(1)
    bits += [8 * byte + int(rng.integers(8)) for byte in rng.choice(arguments, 200)]
    for bit in bits:
        flip(path, bit)
        with pytest.raises(FormatError, match=str(path)):
            open_beton(path)
        flip(path, bit)
    assert verify_structure(open_beton(path)) == []


def test_a_flipped_bit_of_a_plain_file_never_leads_outside_it(tmp_path, files):
    columns = files.small()
    path = files.write(tmp_path / "x", columns, section=False)
    good = open_beton(path)
    refused = 0
    for byte in structure(good):
        bit = 8 * byte + byte % 8
        flip(path, bit)
        try:
            beton = open_beton(path, {"image": RECORD_DTYPES[TypeId.RGB_IMAGE]})
            for name in beton.field_names:
                ends = beton.offsets(name) + beton.lengths(name)
                assert np.all(beton.offsets(name) >= 0)
                assert np.all((ends <= beton.data_end) | (beton.lengths(name) == 0))
            assert len(beton.sample_pages()) == beton.num_samples
            verify_structure(beton)
        except FormatError as error:
            assert str(path) in str(error)  # noqa: PT017
            refused += 1
        flip(path, bit)
    assert refused > 100


def read_all(path):
    beton = open_beton(path)
    return [beton.lengths(name) for name in beton.field_names]


@pytest.mark.parametrize("section", [True, False])
def test_a_truncated_file_is_refused_wherever_it_is_cut(section, tmp_path, files):
    path = files.write(tmp_path / "x", files.small(), section=section)
    beton = open_beton(path)
    layout, table = beton.layout, beton.table_offset
    edges = [0, 24, layout.metadata_offset, layout.metadata_offset + 60, layout.metadata_end]
    edges += [layout.data_offset, beton.data_end, table, table + 24, beton.size_bytes]
    sizes = {edge + nearby for edge in edges for nearby in (-1, 0, 1)} & set(range(beton.size_bytes))
    for size in sorted(sizes, reverse=True):
        os.truncate(path, size)
        with pytest.raises(FormatError, match=str(path)):
            read_all(path)


def test_bytes_added_to_a_file_with_a_section(tmp_path, files):
    path = files.write(tmp_path / "x", files.small())
    with open(path, "ab") as file:
        file.write(bytes(23))
    files.check(open_beton(path), files.small())
    with open(path, "ab") as file:
        file.write(bytes(1))
    with pytest.raises(FormatError, match=r"16 entries in the allocation table .* 15 were written"):
        open_beton(path)


HUGE = [1 << 40, 1 << 61, 1 << 63, (1 << 64) - 1, (1 << 64) // 56 + 1]


@pytest.mark.parametrize("offset", [8, 16])
@pytest.mark.parametrize("value", HUGE)
def test_hostile_counts_allocate_nothing(offset, value, tmp_path, files):
    path = files.patch(
        files.write(tmp_path / "x", files.small(), section=False), offset, struct.pack("<Q", value)
    )
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            open_beton(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_more_fields_than_the_file_holds(tmp_path, files):
    path = files.patch(files.write(tmp_path / "x", [("a", TypeId.INT, [1])]), 2, b"\xff\xff")
    with pytest.raises(FormatError, match="65535 field descriptors"):
        open_beton(path)


@pytest.mark.parametrize("value", [0, 8, *HUGE])
@pytest.mark.parametrize(("member", "name"), [(5, "image"), (24, "blob"), (32, "blob"), (40, "vector")])
def test_hostile_pointers_and_sizes_are_named(value, member, name, tmp_path, files):
    path = files.write(tmp_path / "x", files.small(), section=False)
    good = open_beton(path)
    row = good.layout.metadata_offset + 4 * good.metadata.itemsize
    beton = open_beton(files.patch(path, row + member, struct.pack("<Q", value)))
    if name == "blob" and member == 32 and value == 0:
        assert beton.lengths("blob")[4] == 0  # a size of 0 points nowhere
        return
    with pytest.raises(FormatError, match=rf"{path}: sample 4, field '{name}': its payload at offset \d+"):
        beton.lengths(name)


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize("member", [8, 16])
def test_hostile_table_entries_are_named(value, member, tmp_path, files):
    path = files.write(tmp_path / "x", files.small(), section=False)
    entry = open_beton(path).table_offset + 24 * 3
    with pytest.raises(FormatError, match="entry 3 of the allocation table"):
        open_beton(files.patch(path, entry + member, struct.pack("<Q", value)))


@pytest.mark.parametrize(("at", "data"), [(0, b"\x07"), (1, b"\0\0"), (3, b"\0\0")])
def test_impossible_images_are_refused(at, data, tmp_path, files):
    path = files.write(tmp_path / "x", files.small(), section=False)
    beton = open_beton(path)
    row = beton.layout.metadata_offset + 2 * beton.metadata.itemsize
    with pytest.raises(FormatError, match=r"sample 2, field 'image': image of height \d, width \d"):
        open_beton(files.patch(path, row + at, data)).lengths("image")


@pytest.mark.parametrize(
    ("offset", "data", "message"),
    [
        (0, b"\x01", "version 1"),
        (2, b"\0\0", "0 fields"),
        (4, struct.pack("<I", 3 << 20), "page size of 3145728"),
        (24, b"\x09", "'image' has type id 9"),
        (25, b"\xe9", "not ASCII"),
        (25, b"label\0", "two fields are called 'label'"),
    ],
)
def test_wrong_headers_and_descriptors_say_what_is_wrong(offset, data, message, tmp_path, files):
    path = files.patch(files.write(tmp_path / "x", files.small(), section=False), offset, data)
    with pytest.raises(FormatError, match=rf"{path}: .*{message}"):
        open_beton(path)


@pytest.mark.parametrize("content", [b"", b"\x02", bytes(23), b"\xff\xd8\xff\xe0" * 30])
def test_other_files_are_refused(content, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=str(path)):
        open_beton(path)


def test_a_missing_file_is_an_ordinary_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_beton(tmp_path / "none")


@pytest.mark.parametrize("record", [np.dtype("O"), np.dtype("V0")])
def test_records_that_cannot_be_stored_are_refused(record, tmp_path, files):
    path = files.write(tmp_path / "x", files.small(), section=False)
    with pytest.raises(FormatError, match="cannot be stored"):
        open_beton(path, {"vector": record})


def test_sums_can_be_left_to_verify_structure(tmp_path, files):
    path = files.write(tmp_path / "x", files.small())
    beton = open_beton(path)
    flip(path, 8 * (beton.layout.metadata_offset + 16))  # sample 0's label
    with pytest.raises(FormatError, match=r"metadata, bytes 5229 to \d+: CRC32C is"):
        open_beton(path)
    problems = verify_structure(open_beton(path, check_sums=False))
    assert [problem.split(",")[0] for problem in problems] == ["metadata"]


def test_verify_structure_names_what_ffcv_would_stumble_over(tmp_path, files):
    def broken(entry, member, value):
        path = files.write(tmp_path / "x", files.small(), section=False, per_page=3)
        at = open_beton(path).table_offset + 24 * entry + member
        return " ".join(verify_structure(open_beton(files.patch(path, at, struct.pack("<Q", value)))))

    assert "a sample that does not exist" in broken(3, 0, 77)
    assert "crosses the end of its page" in broken(3, 16, MIN_PAGE_SIZE)
    assert "overlaps another payload" in broken(3, 16, 1000)
    assert "a different page from its sample's" in broken(3, 8, 2 * MIN_PAGE_SIZE + 500)
