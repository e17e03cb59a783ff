"""The fixed parts of the format: header, descriptors, records and where the parts lie."""

from __future__ import annotations

import struct

import pytest

from ffcv_gpu.errors import FormatError
from ffcv_gpu.format import (
    DEFAULT_PAGE_SIZE,
    MAX_PAGE_SIZE,
    MIN_PAGE_SIZE,
    RECORD_DTYPES,
    FieldDescriptor,
    FileLayout,
    TypeId,
    metadata_dtype,
    pack_descriptors,
    pack_header,
    unpack_descriptors,
)


@pytest.mark.parametrize(
    ("fields", "offsets", "itemsize"),
    [  # the table of the format's description, checked against FFCV
        (["RGB_IMAGE", "INT"], [0, 16], 24),
        (["INT", "RGB_IMAGE"], [0, 8], 24),
        (["RGB_IMAGE"], [0], 13),
        (["RGB_IMAGE", "BYTES"], [0, 13], 29),
        (["RGB_IMAGE", "BYTES", "INT"], [0, 13, 32], 40),
        (["INT", "BYTES"], [0, 8], 24),
        (["BYTES", "RGB_IMAGE", "NDARRAY", "JSON", "INT"], [0, 16, 32, 40, 56], 64),
        (["INT"], [0], 8),
    ],
)
def test_records_are_aligned_as_ffcv_aligns_them(fields, offsets, itemsize):
    dtype = metadata_dtype([RECORD_DTYPES[TypeId[name]] for name in fields])
    assert [dtype.fields[f"f{k}"][1] for k in range(len(fields))] == offsets
    assert dtype.itemsize == itemsize


def test_header_bytes_are_those_of_the_reference_file():
    header = pack_header(num_fields=2, page_size=MIN_PAGE_SIZE, num_samples=24, alloc_table_ptr=4 << 20)
    assert header == bytes.fromhex("02000200 00002000 1800000000000000 0000400000000000")


@pytest.mark.parametrize("page_size", [0, 1 << 20, 3 << 20, (1 << 21) + 1, MAX_PAGE_SIZE])
def test_page_sizes_that_ffcv_refuses(page_size):
    with pytest.raises(FormatError, match="power of two"):
        pack_header(num_fields=1, page_size=page_size, num_samples=1)


def test_descriptors_are_packed_as_described():
    arguments = bytes(range(256)) * 4
    fields = [FieldDescriptor("image", 2), FieldDescriptor("sixteen_chars_ok", 255, arguments)]
    packed = pack_descriptors(fields)
    assert packed == struct.pack("B16s1024s", 2, b"image", b"") + struct.pack(
        "B16s1024s", 255, b"sixteen_chars_ok", arguments
    )
    assert list(unpack_descriptors(packed)) == fields


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["seventeen_chars_x"], "at most 16 ASCII"),
        (["gr\u00f6\u00dfe"], "at most 16 ASCII"),
        (["nul\0inside"], "at most 16 ASCII"),
        (["a", "b", "a"], "two fields are called 'a'"),
    ],
)
def test_names_that_ffcv_would_cut_or_confuse_are_refused(names, message):
    with pytest.raises(FormatError, match=message):
        pack_descriptors([FieldDescriptor(name, 1) for name in names])


def test_arguments_have_one_size():
    with pytest.raises(FormatError, match="3 argument bytes, expected 1024"):
        pack_descriptors([FieldDescriptor("a", 1, b"abc")])


def test_pages_begin_at_the_first_multiple_behind_the_metadata():
    fields = (FieldDescriptor("image", 2), FieldDescriptor("label", 1))
    dtype = metadata_dtype([RECORD_DTYPES[2], RECORD_DTYPES[1]])
    for samples in (1, (DEFAULT_PAGE_SIZE - 2106) // 24, (DEFAULT_PAGE_SIZE - 2106) // 24 + 1):
        layout = FileLayout(DEFAULT_PAGE_SIZE, samples, fields, dtype)
        assert (layout.descriptors_offset, layout.metadata_offset) == (24, 24 + 2 * 1041)
        assert layout.metadata_end == 2106 + 24 * samples
        assert layout.data_offset - DEFAULT_PAGE_SIZE < layout.metadata_end <= layout.data_offset
        assert layout.data_offset % DEFAULT_PAGE_SIZE == 0
