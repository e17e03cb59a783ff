"""The smallest writer of ``.beton`` files there can be, and what else the tests of the format share.

Values in, one file out, by the helpers of the format; ``ffcv_gpu.writer`` has tests of its own.
"""

from __future__ import annotations

import struct
from types import SimpleNamespace

import numpy as np
import pytest

from ffcv_gpu.format import (
    ALLOC_TABLE_TYPE,
    JPEG_FACTS,
    MIN_PAGE_SIZE,
    RECORD_DTYPES,
    FieldDescriptor,
    FileLayout,
    JpegFlag,
    TypeId,
    align_up,
    build_section,
    crc32c,
    metadata_dtype,
    pack_descriptors,
    pack_header,
    pack_source_ids,
    section_size,
)

SCALARS = (TypeId.INT, TypeId.FLOAT)
IMAGE_FACTS = (2, 0xC0, 3, 6, JpegFlag.DECODE_CHECKED | JpegFlag.RESTART)


def plain_crc32c(data, crc=0):
    """CRC32C bit by bit, from its polynomial: what the library must agree with."""
    crc ^= 0xFFFFFFFF
    for byte in bytes(data):
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def write_beton(path, columns, *, per_page=1000, section=True, order=None, info=None, sources=None):
    """Write a file.

    ``columns`` is a list of (name, type id, values): numbers; bytes; or for images (mode, height, width,
    bytes). ``per_page`` samples go to a page; ``order`` permutes the table; a "section" of bytes is put in
    its place as it is.
    """
    num_samples = len(columns[0][2])
    fields = tuple(FieldDescriptor(name, type_id) for name, type_id, _ in columns)
    dtype = metadata_dtype([RECORD_DTYPES[type_id] for _, type_id, _ in columns])
    layout = FileLayout(MIN_PAGE_SIZE, num_samples, fields, dtype)
    metadata, entries, pieces = np.zeros(num_samples, dtype), [], []
    at = page_end = layout.data_offset
    for sample in range(num_samples):
        at, page_end = (page_end, page_end + MIN_PAGE_SIZE) if sample % per_page == 0 else (at, page_end)
        for k, (_, type_id, values) in enumerate(columns):
            value = values[sample]
            data = b"" if type_id in SCALARS else value[-1] if type_id == TypeId.RGB_IMAGE else value
            if type_id == TypeId.RGB_IMAGE:
                mode, height, width, _ = value
                metadata[f"f{k}"][sample] = (mode, width, height, at)
            elif type_id in (TypeId.BYTES, TypeId.JSON):
                metadata[f"f{k}"][sample] = (at, len(value))
            else:
                metadata[f"f{k}"][sample] = value if type_id in SCALARS else at
            if type_id not in SCALARS:
                entries.append((sample, at, len(data)))
                pieces.append((at, data))
                at += len(data)
    allocations = np.array(entries, ALLOC_TABLE_TYPE)[slice(None) if order is None else order]
    data_end = page_end if entries else layout.metadata_end
    descriptors = pack_descriptors(fields)
    facts = {
        name: np.array([IMAGE_FACTS] * num_samples, JPEG_FACTS)
        for name, type_id, _ in columns
        if type_id == 2
    }
    counts = {
        "num_entries": len(entries),
        "num_samples": num_samples,
        "num_facts": len(facts),
        "info": info or {},
        "sources": None if sources is None else pack_source_ids(sources),
    }
    size = len(section) if isinstance(section, bytes) else section_size(**counts) if section else 0
    table_at = align_up(data_end, 8) + size if size else data_end
    header = pack_header(
        num_fields=len(fields), page_size=MIN_PAGE_SIZE, num_samples=num_samples, alloc_table_ptr=table_at
    )
    if section is True:
        stored = {at: data for at, data in pieces if data}
        crcs = [crc32c(stored[ptr]) if size else 0 for _, ptr, size in allocations.tolist()]
        section = build_section(
            header=header,
            descriptors=descriptors,
            metadata=metadata,
            allocations=allocations,
            payload_crcs=np.array(crcs, np.uint32),
            facts=facts,
            info=info or {},
            sources=counts["sources"],
        )
        assert len(section) == size
    parts = [(0, header + descriptors + metadata.tobytes()), *pieces, (table_at - size, section or b"")]
    with open(path, "wb") as file:
        file.truncate(table_at)
        for offset, data in [*parts, (table_at, allocations.tobytes())]:
            file.seek(offset)
            file.write(data)
    return path


def small_columns(samples=5):
    """One field of each kind, with an empty byte string in every third sample."""
    pictures = [
        (k % 2, 2 + k, 3, bytes((2 + k) * 9) if k % 2 else b"\xff\xd8" + bytes(k) + b"\xff\xd9")
        for k in range(samples)
    ]
    return [
        ("image", TypeId.RGB_IMAGE, pictures),
        ("label", TypeId.INT, [k - 2 for k in range(samples)]),
        ("blob", TypeId.BYTES, [bytes(range(k)) if k % 3 else b"" for k in range(samples)]),
        ("vector", TypeId.NDARRAY, [struct.pack("<3f", k, 1, 2) for k in range(samples)]),
        ("score", TypeId.FLOAT, [k / 2 for k in range(samples)]),
    ]


def check_columns(beton, columns):
    """Everything the file says is what was written, and nothing lies outside it."""
    for name, type_id, values in columns:
        if type_id in SCALARS:
            assert beton.column(name).tolist() == values
            continue
        datas = [value[-1] if type_id == TypeId.RGB_IMAGE else value for value in values]
        offsets, lengths = beton.offsets(name), beton.lengths(name)
        assert lengths.tolist() == [len(data) for data in datas]
        assert [beton.data[o : o + n].tobytes() for o, n in zip(offsets, lengths, strict=True)] == datas
        if beton.section is not None:
            assert beton.checksums(name).tolist() == [plain_crc32c(data) for data in datas]


def patch(path, offset, data):
    """Overwrite bytes of the file; returns its path."""
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)
    return path


@pytest.fixture(scope="session")
def files():
    """A writer, a small data set, a reader that compares, a way to spoil files, and a slow CRC32C."""
    return SimpleNamespace(
        write=write_beton, small=small_columns, check=check_columns, patch=patch, crc32c=plain_crc32c
    )
