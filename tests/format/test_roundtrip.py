"""What is written is read, whatever the fields, pages and order of the table; within the memory budget."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ffcv_gpu.errors import FormatError
from ffcv_gpu.format import (
    MIN_PAGE_SIZE,
    TypeId,
    open_beton,
    verify_structure,
)

SCALARS = (TypeId.INT, TypeId.FLOAT)


def payload_columns(samples):
    data = st.binary(max_size=40)
    jpeg = st.tuples(st.just(0), st.integers(1, 9), st.integers(1, 9), st.binary(min_size=1, max_size=40))
    raw = st.tuples(st.integers(1, 3), st.integers(1, 3)).map(
        lambda s: (1, *s, bytes(range(s[0] * s[1] * 3)))
    )
    values = {
        TypeId.INT: st.integers(-(1 << 63), (1 << 63) - 1),
        TypeId.FLOAT: st.floats(allow_nan=False),
        TypeId.BYTES: data,
        TypeId.JSON: data,
        TypeId.NDARRAY: st.binary(min_size=8, max_size=8),
        TypeId.RGB_IMAGE: st.one_of(jpeg, raw),
    }
    name = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=16)
    kinds = st.sampled_from(list(values)).flatmap(
        lambda kind: st.tuples(
            name, st.just(kind), st.lists(values[kind], min_size=samples, max_size=samples)
        )
    )
    return st.lists(kinds, min_size=1, max_size=5, unique_by=lambda column: column[0])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_what_is_written_is_read(tmp_path, files, data):
    columns = data.draw(st.integers(0, 12).flatmap(payload_columns))
    entries = sum(type_id not in SCALARS for _, type_id, _ in columns) * len(columns[0][2])
    order = data.draw(st.permutations(range(entries)))
    key = st.text(max_size=5).filter(lambda name: name not in ("parts", "shard"))  # whose values are checked
    info = data.draw(st.dictionaries(key, st.integers() | st.text(max_size=5), max_size=3))
    texts = st.lists(st.text(max_size=9), min_size=len(columns[0][2]), max_size=len(columns[0][2]))
    sources = data.draw(st.none() | texts)
    per_page, section = data.draw(st.integers(1, 12)), data.draw(st.booleans())
    beton = open_beton(
        files.write(
            tmp_path / "x",
            columns,
            per_page=per_page,
            section=section,
            order=order,
            info=info,
            sources=sources,
        )
    )
    files.check(beton, columns)
    stored = np.zeros(beton.num_samples, bool)
    for name, type_id, _ in columns:
        stored |= (beton.lengths(name) > 0) & (type_id not in SCALARS)
    first_page = beton.layout.data_offset // MIN_PAGE_SIZE
    expected = np.where(stored, first_page + np.arange(beton.num_samples) // per_page, -1)
    np.testing.assert_array_equal(beton.sample_pages(), expected)
    assert verify_structure(beton) == []
    assert (beton.section is not None) == section
    if section:
        assert beton.section.info == info
        assert (None if beton.source_ids is None else list(beton.source_ids)) == sources
        assert set(beton.section.facts) == {name for name, type_id, _ in columns if type_id == 2}


def test_two_samples_may_share_a_payload(tmp_path, files):
    columns = [
        ("blob", TypeId.BYTES, [b"", b"", b""]),
        ("vector", TypeId.NDARRAY, [b"12345678", b"87654321", b"12345678"]),
    ]
    path = files.write(tmp_path / "x", columns, section=False)
    beton = open_beton(path)
    shared, record = int(beton.offsets("vector")[0]), beton.layout.metadata_offset + 2 * 24
    # Sample 2's array, and its two entries: one of no bytes for the blob, one of 8 for the array.
    for offset in (record + 16, beton.table_offset + 4 * 24 + 8, beton.table_offset + 5 * 24 + 8):
        files.patch(path, offset, shared.to_bytes(8, "little"))
    files.check(open_beton(path), columns)


def test_arrays_with_a_side_of_no_length_are_empty(tmp_path, files):
    columns = [("nothing", TypeId.NDARRAY, [b""] * 4), ("blob", TypeId.BYTES, [b"abc", b"", b"de", b"f"])]
    path = files.write(tmp_path / "x", columns, section=False)
    with pytest.raises(FormatError, match="sample 1, field 'nothing'"):
        open_beton(path).lengths("nothing")  # by the table alone they would be the blobs that follow them
    files.patch(path, 24 + 17, struct.pack("<2Q", 0, 3))  # the shape: (0, 3)
    files.check(open_beton(path), columns)


def test_a_custom_field_may_store_nothing_for_a_value(tmp_path, files):
    texts = [b"abc", b"", b"", b"defg", b""]
    path = files.write(tmp_path / "x", [("text", TypeId.NDARRAY, texts)], section=False)
    with pytest.raises(FormatError, match="sample 1, field 'text'"):
        open_beton(path).lengths("text")
    files.patch(path, 24, bytes([TypeId.CUSTOM]))
    beton = open_beton(path, {"text": np.dtype("<u8")})
    assert beton.lengths("text").tolist() == [3, 0, 0, 4, 0]


def test_opening_grows_by_less_than_the_budget(tmp_path, files):
    # 300 MB for the 1.28 million samples of ImageNet are 234 bytes each; pages of the file are not counted.
    samples = 60_000
    columns = [
        ("image", TypeId.RGB_IMAGE, [(0, 375, 500, b"\xff\xd8" + bytes(k % 7)) for k in range(samples)]),
        ("label", TypeId.INT, list(range(samples))),
    ]
    order = np.random.default_rng(0).permutation(samples)
    path = files.write(tmp_path / "x", columns, per_page=samples, order=order)
    tracemalloc.start()
    try:
        beton = open_beton(path)
        kept = (
            beton.lengths("image"),
            beton.checksums("image"),
            beton.sample_pages(),
            beton.lengths("label"),
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [len(array) for array in kept] == [samples] * 4
    assert peak < 234 * samples
