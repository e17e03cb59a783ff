"""The integrity section: its bytes as described, where it lies, and that what it sums is noticed.

``write_beton`` is the smallest writer there can be: values in, one file out, by the helpers of the format.
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ffcv_gpu.errors import FormatError
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
    open_beton,
    pack_descriptors,
    pack_header,
    section_size,
    verify_structure,
)

FIXTURES = Path(__file__).parent / "fixtures"
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


def write_beton(
    path, columns, *, page_size=MIN_PAGE_SIZE, per_page=1000, section=True, order=None, info=None
):
    """Write a file.

    ``columns`` is a list of (name, type id, values): numbers; bytes; or for images (mode, height, width,
    bytes). ``per_page`` samples go to a page; ``order`` permutes the table; a "section" of bytes is put in
    its place as it is.
    """
    num_samples = len(columns[0][2])
    fields = tuple(FieldDescriptor(name, type_id) for name, type_id, _ in columns)
    dtype = metadata_dtype([RECORD_DTYPES[type_id] for _, type_id, _ in columns])
    layout = FileLayout(page_size, num_samples, fields, dtype)
    metadata, entries, pieces = np.zeros(num_samples, dtype), [], []
    at = page_end = layout.data_offset
    for sample in range(num_samples):
        at, page_end = (page_end, page_end + page_size) if sample % per_page == 0 else (at, page_end)
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
        name: np.full(num_samples, IMAGE_FACTS, JPEG_FACTS) for name, type_id, _ in columns if type_id == 2
    }
    counts = {
        "num_entries": len(entries),
        "num_samples": num_samples,
        "num_facts": len(facts),
        "info": info or {},
    }
    size = len(section) if isinstance(section, bytes) else section_size(**counts) if section else 0
    table_at = align_up(data_end, 8) + size if size else data_end
    header = pack_header(
        num_fields=len(fields), page_size=page_size, num_samples=num_samples, alloc_table_ptr=table_at
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


# ------------------------------------------------------------------------------------------- round trip


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
def test_what_is_written_is_read(tmp_path, data):
    columns = data.draw(st.integers(1, 12).flatmap(payload_columns))
    entries = sum(type_id not in SCALARS for _, type_id, _ in columns) * len(columns[0][2])
    order = data.draw(st.permutations(range(entries)))
    info = data.draw(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3))
    per_page, section = data.draw(st.integers(1, 12)), data.draw(st.booleans())
    beton = open_beton(
        write_beton(tmp_path / "x", columns, per_page=per_page, section=section, order=order, info=info)
    )
    check_columns(beton, columns)
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
        assert set(beton.section.facts) == {name for name, type_id, _ in columns if type_id == 2}


def test_two_samples_may_share_a_payload(tmp_path):
    columns = [("vector", TypeId.NDARRAY, [b"12345678", b"87654321", b"12345678"])]
    path = write_beton(tmp_path / "x", columns, section=False)
    beton = open_beton(path)
    shared, at = int(beton.offsets("vector")[0]), beton.layout.metadata_offset + 2 * 8
    with open(path, "r+b") as file:
        for offset in (at, beton.table_offset + 2 * 24 + 8):
            file.seek(offset)
            file.write(shared.to_bytes(8, "little"))
    check_columns(open_beton(path), columns)


def test_a_custom_field_may_store_nothing_for_a_value(tmp_path):
    texts = [b"abc", b"", b"", b"defg", b""]
    path = write_beton(tmp_path / "x", [("text", TypeId.NDARRAY, texts)], section=False)
    with pytest.raises(FormatError, match="sample 1, field 'text'"):
        open_beton(path).lengths("text")
    with open(path, "r+b") as file:
        file.seek(24)
        file.write(bytes([TypeId.CUSTOM]))
    beton = open_beton(path, {"text": np.dtype("<u8")})
    assert beton.lengths("text").tolist() == [3, 0, 0, 4, 0]


# ------------------------------------------------------------------------------------- bytes and place


def test_crc32c_has_the_known_answer_and_continues():
    assert crc32c(b"123456789") == plain_crc32c(b"123456789") == 0xE3069283
    data = np.arange(1000, dtype=np.uint16)
    whole = plain_crc32c(data.tobytes())
    for form in (data, data.tobytes(), bytearray(data.tobytes()), memoryview(data.tobytes())):
        assert crc32c(form) == whole
    assert crc32c(data[300:], crc32c(data[:300])) == whole
    assert crc32c(memoryview(b"")) == 0


def chunk(tag, payload):
    head = struct.pack("<4sIQ", tag, plain_crc32c(payload), len(payload))
    return head, head + payload + bytes(-len(payload) % 8)


def sealed(chunks, *, version=1, algorithm=1):
    """A section put together by hand, from its description alone."""
    heads, bodies = zip(*(chunk(tag, payload) for tag, payload in chunks), strict=True)
    start = struct.pack(
        "<QIIHH", sum(map(len, bodies)), plain_crc32c(b"".join(heads)), len(chunks), algorithm, version
    )
    return b"".join(bodies) + start + struct.pack("<I", plain_crc32c(start)) + b"ffcv-gpu"


def chunks_of(path):
    """The chunks that describe a file written without a section, once one of this length is put into it."""
    raw, beton = path.read_bytes(), open_beton(path)
    layout, table = beton.layout, raw[beton.table_offset :]
    datas = [raw[ptr : ptr + size] for _, ptr, size in beton.allocations.tolist()]
    crcs = b"".join(struct.pack("<I", plain_crc32c(data)) for data in datas)
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
        return b"SUMS", struct.pack("<4IQ", *map(plain_crc32c, parts), len(datas))

    length = len(sealed([sums(0), *later]))
    return [sums(length), *later]


def test_the_section_has_the_bytes_of_its_description(tmp_path):
    by_hand = sealed(chunks_of(write_beton(tmp_path / "plain", small_columns(), section=False)))
    info = {"z": None, "a": [1, "b"]}
    path = write_beton(tmp_path / "x", small_columns(), info=info)
    section = open_beton(path).section
    assert path.read_bytes()[section.offset : section.offset + section.size_bytes] == by_hand


def test_the_section_ends_where_the_table_begins_and_nothing_follows_it(tmp_path):
    beton = open_beton(write_beton(tmp_path / "x", small_columns(), per_page=2))
    section = beton.section
    assert section.offset + section.size_bytes == beton.table_offset
    assert section.offset == beton.data_end == beton.layout.data_offset + 3 * MIN_PAGE_SIZE
    assert beton.size_bytes == beton.table_offset + 24 * 15
    assert beton.table_offset % 8 == 0
    assert beton.facts("image").tolist() == [(2, 0xC0, 3, 6, 33)] * 5
    assert beton.facts("blob") is None


def test_a_file_without_pages_has_its_section_behind_the_metadata(tmp_path):
    columns = [("a", TypeId.INT, [1, 2, 3])]
    beton = open_beton(write_beton(tmp_path / "x", columns, info={"by": "test"}))
    assert beton.section.offset == align_up(24 + 1041 + 3 * 8, 8)
    assert beton.size_bytes == beton.table_offset == beton.section.offset + beton.section.size_bytes
    assert beton.section.info == {"by": "test"}
    check_columns(beton, columns)


def test_a_file_of_version_1_stays_readable(tmp_path):
    # Written once by `write_beton(..., small_columns(7), per_page=4)`; not to be written again.
    path = tmp_path / "x"
    path.write_bytes(gzip.decompress((FIXTURES / "section_v1.beton.gz").read_bytes()))
    beton = open_beton(path)
    check_columns(beton, small_columns(7))
    assert beton.facts("image").tolist() == [(2, 0xC0, 3, 6, 33)] * 7
    assert beton.section.info == {"writer": "tests", "fields": {"image": {"write_mode": "raw"}}}
    assert verify_structure(beton) == []


def test_unknown_chunks_are_passed_over(tmp_path):
    chunks = chunks_of(write_beton(tmp_path / "plain", small_columns(), section=False))
    # The header's sum counts the section's bytes, so the newcomer takes the place of as many old ones.
    chunks[-1] = (b"NEWS", b"x" * 22)
    beton = open_beton(write_beton(tmp_path / "x", small_columns(), section=sealed(chunks)))
    check_columns(beton, small_columns())
    assert beton.section.info == {}


@pytest.mark.parametrize("change", [{"version": 2}, {"algorithm": 7}])
def test_a_section_of_the_future_is_passed_over_with_a_warning(change, tmp_path, caplog):
    chunks = chunks_of(write_beton(tmp_path / "plain", small_columns(), section=False))
    path = write_beton(tmp_path / "x", small_columns(), section=sealed(chunks, **change))
    with caplog.at_level(logging.WARNING):
        beton = open_beton(path)
    assert "not known here" in caplog.text
    assert beton.section is None
    check_columns(beton, small_columns())


def test_bytes_of_somebody_else_in_the_sections_place_are_passed_over(tmp_path):
    somebody = np.random.default_rng(0).bytes(1336)
    beton = open_beton(write_beton(tmp_path / "x", small_columns(), section=somebody))
    assert beton.section is None
    check_columns(beton, small_columns())


@pytest.mark.parametrize(
    ("tag", "payload", "message"),
    [
        (b"SUMS", b"", "no sums"),
        (b"SUMS", struct.pack("<4IQ", 0, 0, 0, 0, 1 << 60), "payload checksums for 1152921504606846976"),
        (b"PCRC", bytes(4 * 14), "14 payload checksums for 15"),
        (b"FACT", b"", "facts are cut"),
        (b"FACT", struct.pack("<IIQ", 0, 6, 1 << 62), "do not fit"),
        (b"FACT", struct.pack("<IIQ", 0, 0, 5), "do not fit"),
        (b"FACT", struct.pack("<IIQ", 9, 6, 5) + bytes(30), "do not fit"),
        (b"INFO", b"{", "not JSON"),
        (b"INFO", b"\xff\xfe\xfa", "not JSON"),
        (b"INFO", b"[" * 100_000, "not JSON"),
        (b"INFO", b"[1]", "not a JSON object"),
    ],
)
def test_a_section_that_sums_right_and_says_nonsense_is_refused(tag, payload, message, tmp_path):
    chunks = chunks_of(write_beton(tmp_path / "plain", small_columns(), section=False))
    chunks = [(t, payload if t == tag else p) for t, p in chunks]
    path = write_beton(tmp_path / "x", small_columns(), section=sealed(chunks))
    with pytest.raises(FormatError, match=message):
        open_beton(path)


@pytest.mark.parametrize("length", [1 << 63, 1 << 24, 1])
def test_a_footer_that_claims_more_or_less_than_there_is(length, tmp_path):
    start = struct.pack("<QIIHH", length, 0, 1, 1, 1)
    footer = start + struct.pack("<I", plain_crc32c(start)) + b"ffcv-gpu"
    path = write_beton(tmp_path / "x", small_columns(), section=footer)
    with pytest.raises(FormatError, match=r"integrity section, byte \d+"):
        open_beton(path)


def test_what_does_not_belong_together_is_not_sealed(tmp_path):
    beton = open_beton(write_beton(tmp_path / "x", small_columns()))
    raw = {"header": beton.data[:24].tobytes(), "descriptors": pack_descriptors(beton.fields)}
    parts = raw | {"metadata": beton.metadata, "allocations": beton.allocations, "info": {}}
    crcs = beton.section.payload_crcs
    with pytest.raises(FormatError, match="14 payload checksums for 15"):
        build_section(**parts, payload_crcs=crcs[1:], facts={})
    with pytest.raises(FormatError, match="facts of shape"):
        build_section(**parts, payload_crcs=crcs, facts={"image": beton.facts("image")[1:]})


# ----------------------------------------------------------------------------------------------- damage


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


def test_every_flipped_bit_of_the_structure_is_noticed(tmp_path):
    path = write_beton(tmp_path / "x", small_columns(), info={"a": 1})
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


def test_a_flipped_bit_of_a_plain_file_never_leads_outside_it(tmp_path):
    columns = small_columns()
    path = write_beton(tmp_path / "x", columns, section=False)
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


def test_a_truncated_file_is_refused_wherever_it_is_cut(tmp_path):
    for section in (True, False):
        path = write_beton(tmp_path / f"{section}", small_columns(), section=section)
        beton = open_beton(path)
        layout, end = beton.layout, beton.size_bytes
        edges = [0, 1, 2, 24, layout.metadata_offset, layout.metadata_end, layout.data_offset, beton.data_end]
        edges += [
            beton.table_offset,
            end,
            beton.table_offset + 24,
            (layout.metadata_offset + layout.metadata_end) // 2,
        ]
        for size in sorted({edge + d for edge in edges for d in (-1, 0, 1)} & set(range(end)), reverse=True):
            os.truncate(path, size)
            with pytest.raises(FormatError, match=str(path)):
                cut = open_beton(path)
                for name in cut.field_names:
                    cut.lengths(name)


def test_a_section_file_with_bytes_added_is_refused(tmp_path):
    path = write_beton(tmp_path / "x", small_columns())
    for extra in (23, 24):
        with open(path, "ab") as file:
            file.write(bytes(extra - (path.stat().st_size - path.stat().st_size // 24 * 24) * 0))
        if extra == 23:
            check_columns(open_beton(path), small_columns())
            os.truncate(path, path.stat().st_size - 23)
    with pytest.raises(FormatError, match="cut or added to"):
        open_beton(path)


def patched(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)
    return path


HUGE = [1 << 40, 1 << 61, 1 << 63, (1 << 64) - 1, (1 << 64) // 56 + 1]


@pytest.mark.parametrize("offset", [8, 16])
@pytest.mark.parametrize("value", HUGE)
def test_hostile_counts_allocate_nothing(offset, value, tmp_path):
    path = patched(
        write_beton(tmp_path / "x", small_columns(), section=False), offset, struct.pack("<Q", value)
    )
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            open_beton(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_more_fields_than_the_file_holds(tmp_path):
    path = patched(write_beton(tmp_path / "x", [("a", TypeId.INT, [1])]), 2, b"\xff\xff")
    with pytest.raises(FormatError, match="65535 field descriptors"):
        open_beton(path)


@pytest.mark.parametrize("value", [0, 8, *HUGE])
@pytest.mark.parametrize(("member", "name"), [(5, "image"), (24, "blob"), (32, "blob"), (40, "vector")])
def test_hostile_pointers_and_sizes_are_named(value, member, name, tmp_path):
    path = write_beton(tmp_path / "x", small_columns(), section=False)
    good = open_beton(path)
    row = good.layout.metadata_offset + 4 * good.metadata.itemsize
    beton = open_beton(patched(path, row + member, struct.pack("<Q", value)))
    if name == "blob" and member == 32 and value == 0:
        assert beton.lengths("blob")[4] == 0  # a size of 0 points nowhere
        return
    with pytest.raises(FormatError, match=rf"{path}: sample 4, field '{name}': its payload at offset \d+"):
        beton.lengths(name)


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize("member", [8, 16])
def test_hostile_table_entries_are_named(value, member, tmp_path):
    path = write_beton(tmp_path / "x", small_columns(), section=False)
    entry = open_beton(path).table_offset + 24 * 3
    with pytest.raises(FormatError, match="entry 3 of the allocation table"):
        open_beton(patched(path, entry + member, struct.pack("<Q", value)))


@pytest.mark.parametrize(("at", "data"), [(0, b"\x07"), (1, b"\0\0"), (3, b"\0\0")])
def test_impossible_images_are_refused(at, data, tmp_path):
    path = write_beton(tmp_path / "x", small_columns(), section=False)
    beton = open_beton(path)
    row = beton.layout.metadata_offset + 2 * beton.metadata.itemsize
    with pytest.raises(FormatError, match=r"sample 2, field 'image': image of height \d, width \d"):
        open_beton(patched(path, row + at, data)).lengths("image")


@pytest.mark.parametrize(
    ("offset", "data", "message"),
    [
        (0, b"\x01", "version 1"),
        (2, b"\0\0", "0 fields"),
        (4, struct.pack("<I", 3 << 20), "pages of 3145728 bytes"),
        (24, b"\x09", "'image' has type id 9"),
        (25, b"\xe9", "not ASCII"),
        (25, b"label\0", "two fields are called 'label'"),
    ],
)
def test_wrong_headers_and_descriptors_say_what_is_wrong(offset, data, message, tmp_path):
    path = patched(write_beton(tmp_path / "x", small_columns(), section=False), offset, data)
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
def test_records_that_cannot_be_stored_are_refused(record, tmp_path):
    path = write_beton(tmp_path / "x", small_columns(), section=False)
    with pytest.raises(FormatError, match="cannot be stored"):
        open_beton(path, {"vector": record})


def test_sums_can_be_left_to_verify_structure(tmp_path):
    path = write_beton(tmp_path / "x", small_columns())
    beton = open_beton(path)
    flip(path, 8 * (beton.layout.metadata_offset + 16))  # sample 0's label
    with pytest.raises(FormatError, match=r"metadata, bytes 5229 to \d+: CRC32C is"):
        open_beton(path)
    problems = verify_structure(open_beton(path, check_sums=False))
    assert [problem.split(",")[0] for problem in problems] == ["metadata"]


def test_verify_structure_names_what_ffcv_would_stumble_over(tmp_path):
    def broken(entry, member, value):
        path = write_beton(tmp_path / "x", small_columns(), section=False, per_page=3)
        at = open_beton(path).table_offset + 24 * entry + member
        return " ".join(verify_structure(open_beton(patched(path, at, struct.pack("<Q", value)))))

    assert "a sample that does not exist" in broken(3, 0, 77)
    assert "crosses the end of its page" in broken(3, 16, MIN_PAGE_SIZE)
    assert "overlaps another payload" in broken(3, 16, 1000)
    assert "another page than its sample's" in broken(3, 8, 2 * MIN_PAGE_SIZE + 500)


# --------------------------------------------------------------------------------------------- memory


def test_opening_grows_by_less_than_the_budget(tmp_path):
    # The budget is 300 MB for the 1.28 million samples of ImageNet, file-backed pages not counted: 234 bytes each.
    samples = 60_000
    columns = [
        ("image", TypeId.RGB_IMAGE, [(0, 375, 500, b"\xff\xd8" + bytes(k % 7)) for k in range(samples)]),
        ("label", TypeId.INT, list(range(samples))),
    ]
    order = np.random.default_rng(0).permutation(samples)
    path = write_beton(tmp_path / "x", columns, per_page=samples, order=order)
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


def test_info_is_json_and_the_same_whatever_the_order():
    one, two = {"b": 1, "a": {"y": 2, "x": 3}}, {"a": {"x": 3, "y": 2}, "b": 1}
    counts = {"num_entries": 0, "num_samples": 1, "num_facts": 0}
    assert section_size(**counts, info=one) == section_size(**counts, info=two)
    with pytest.raises(ValueError, match="not JSON compliant"):
        section_size(**counts, info={"a": float("nan")})
    assert json.dumps(one) != json.dumps(two)
