"""``verify`` finds every changed byte and names its sample; and says what it cannot know."""

from __future__ import annotations

import gzip
import itertools
import multiprocessing
import os
import shutil

import google_crc32c
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ffcv_gpu.cli.checking import PAYLOAD, check_payloads
from ffcv_gpu.cli.opening import Opened
from ffcv_gpu.cli.verify import _collect
from ffcv_gpu.dataset.stored import stored_fields
from ffcv_gpu.errors import FormatError, ReadError
from ffcv_gpu.format import open_beton, verify_structure
from ffcv_gpu.readers import PositionedReader

# Fields with payloads of the small file, with a sample whose payload is not empty.
PLACES = [("image", 4), ("image", 5), ("vector", 7), ("text", 13)]


def test_a_good_file(run, small):
    result = run("verify", small)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "good"
    assert "not checked" not in result.stdout
    assert "41 payloads" in result.stdout  # 14 images, 14 vectors, 13 texts: one text is empty


@pytest.mark.parametrize(("field", "sample"), PLACES)
@pytest.mark.parametrize("place", ["first", "last"])
def test_a_changed_byte_is_named(run, small, damaged, field, sample, place):
    beton = open_beton(small)
    offset, length = int(beton.offsets(field)[sample]), int(beton.lengths(field)[sample])
    result = run("verify", damaged(offset if place == "first" else offset + length - 1))
    assert result.exit_code == 1
    bad = [line for line in result.stdout.splitlines() if line.startswith("sample ")]
    assert len(bad) == 1
    assert bad[0].startswith(f"sample {sample}, field '{field}', byte {offset} ({length} bytes): CRC32C is ")
    assert result.stdout.splitlines()[-1] == "DAMAGED: 0 problems in the structure, 1 bad sample"


def test_every_bad_sample_is_listed(run, small, tmp_path):
    content, beton = bytearray(small.read_bytes()), open_beton(small)
    for sample in (3, 8, 11):
        content[int(beton.offsets("image")[sample]) + 10] ^= 1
    (tmp_path / "bad.beton").write_bytes(content)
    lines = run("verify", tmp_path / "bad.beton").stdout.splitlines()
    assert [line.split(",")[0] for line in lines if line.startswith("sample ")] == [
        "sample 3",
        "sample 8",
        "sample 11",
    ]


def test_changed_structure_is_found(run, small, damaged):
    beton = open_beton(small)
    label = beton.layout.metadata_offset + 16  # no pointer: only the sum can tell
    for offset, word in ((label, "metadata"), (24 + 1041 - 1, "field descriptors")):
        result = run("verify", damaged(offset))
        assert result.exit_code == 1
        assert word in result.stdout
        assert "DAMAGED" in result.stdout
    cut = run("verify", shorten(small, damaged(0)))
    assert cut.exit_code == 1
    assert cut.stderr.count("\n") == 1


def shorten(small, path):
    shutil.copy(small, path)
    os.truncate(path, small.stat().st_size - 30)
    return path


def test_a_file_of_ffcv_is_only_partly_checked(run, reference_betons):
    raw = run("verify", reference_betons / "raw.beton")
    assert raw.exit_code == 0
    assert "24 payloads of field 'image': the file has no checksums" in raw.stdout
    assert raw.stdout.splitlines()[-1] == "good, as far as it can be checked"
    jpg = run("verify", reference_betons / "jpg.beton", "--no-decode")
    assert "--decode decodes its JPEGs" in jpg.stdout
    decoded = run("verify", reference_betons / "jpg.beton")
    assert decoded.exit_code == 0
    assert "24 JPEGs, strictly" in decoded.stdout
    assert run("verify", reference_betons / "scalars.beton").stdout.splitlines()[-1] == "good"


def test_decode_finds_what_no_checksum_guards(run, reference_betons, tmp_path):
    source = reference_betons / "jpg.beton"
    content, beton = bytearray(source.read_bytes()), open_beton(source)
    offset, length = int(beton.offsets("image")[6]), int(beton.lengths("image")[6])
    content[offset + length // 2 : offset + length] = bytes(length - length // 2)  # the scan is cut
    content[int(beton.offsets("image")[9])] = 0
    path = tmp_path / "cut.beton"
    path.write_bytes(content)
    assert run("verify", path, "--no-decode").exit_code == 0
    result = run("verify", path)
    assert result.exit_code == 1
    assert "sample 6, field 'image'" in result.stdout
    assert "sample 9, field 'image'" in result.stdout
    assert result.stdout.splitlines()[-1] == "DAMAGED: 0 problems in the structure, 2 bad samples"


def test_a_jpeg_of_another_size_than_noted(run, small, tmp_path):
    beton = open_beton(small)
    start = beton.layout.metadata_offset
    record = np.frombuffer(
        small.read_bytes()[start : start + beton.metadata.nbytes], beton.metadata.dtype
    ).copy()
    record["f0"]["width"][2] += 1
    content = bytearray(small.read_bytes())
    content[start : start + beton.metadata.nbytes] = record.tobytes()
    path = tmp_path / "sides.beton"
    path.write_bytes(content)
    result = run("verify", path, "--decode")
    assert result.exit_code == 1
    assert "sample 2, field 'image'" in result.stdout
    assert "the record says" in result.stdout


def payloads_of(content: bytes, cuts: list[int]) -> np.ndarray:
    """PAYLOAD records for the pieces between `cuts`, with their sums by google_crc32c."""
    rows = np.zeros(len(cuts) - 1, PAYLOAD)
    rows["sample"] = np.arange(len(rows))
    rows["offset"], rows["length"], rows["summed"] = cuts[:-1], np.diff(cuts), True
    rows["crc"] = [google_crc32c.value(content[a:b]) for a, b in itertools.pairwise(cuts)]
    return rows


@pytest.mark.parametrize("processes", [1, 2])
def test_tasks_blocks_and_processes_give_the_same(tmp_path, monkeypatch, processes):
    """Payloads of many sizes, some larger than a read and a task: all are looked at, once."""
    monkeypatch.setattr("ffcv_gpu.cli.checking.TASK_BYTES", 300_000)
    monkeypatch.setattr("ffcv_gpu.cli.checking.READ_BYTES", 50_000)
    rng = np.random.default_rng(0)
    content = rng.bytes(2_000_000)
    cuts = [0, 10, *np.sort(rng.choice(np.arange(500_000, 2_000_000), 60, replace=False)).tolist(), 2_000_000]
    payloads = payloads_of(content, cuts)
    changed = bytearray(content)
    for row in (0, 1, 30, 61):
        changed[cuts[row]] ^= 1
    path = tmp_path / "bytes"
    path.write_bytes(changed)
    results = list(check_payloads(str(path), payloads, processes))
    assert len(results) > 3
    assert sum(done for done, _ in results) == 2_000_000
    assert sorted(bad.sample for _, found in results for bad in found) == [0, 1, 30, 61]


def test_a_bad_sector_names_its_payload_and_no_other(tmp_path, monkeypatch):
    content = os.urandom(100_000)
    (tmp_path / "bytes").write_bytes(content)
    payloads = payloads_of(content, list(range(0, 100_001, 10_000)))
    read = PositionedReader.read_into

    def broken(self, offsets, lengths, out):
        if offsets[0] <= 34_567 < offsets[0] + lengths[0]:
            raise ReadError("Input/output error")
        read(self, offsets, lengths, out)

    monkeypatch.setattr(PositionedReader, "read_into", broken)
    [(_, bad)] = check_payloads(str(tmp_path / "bytes"), payloads, 1)
    assert [(b.sample, b.offset, b.reason) for b in bad] == [(3, 30_000, "Input/output error")]


# ---- plain files of FFCV's: everything that they allow to be checked


def changed(source, path, changes):
    """A copy of a file with u64 numbers put in, by byte."""
    content = bytearray(source.read_bytes())
    for at, value in changes.items():
        content[at : at + 8] = int(value).to_bytes(8, "little")
    path.write_bytes(content)
    return path


@pytest.fixture
def plain(reference_betons):
    return reference_betons / "jpg.beton"


def test_entries_that_overlap_or_cross_a_page(run, plain, tmp_path):
    beton = open_beton(plain)
    entry, (_, _, size) = beton.table_offset + 24 * 3, beton.allocations[3].tolist()
    result = run("verify", changed(plain, tmp_path / "x", {entry + 16: size + 1}))
    assert result.exit_code == 1
    assert "each of which overlaps another payload" in result.stdout
    # ... which is also no longer a JPEG that ends where it is said to; a trailing byte is none's fault
    assert result.stdout.splitlines()[-1].startswith("DAMAGED: 1 problem in the structure")
    result = run("verify", changed(plain, tmp_path / "x", {entry + 16: beton.page_size}))
    assert result.exit_code == 1
    assert "crosses the end of its page" in result.stdout or "lies outside the pages" in result.stderr


def test_pointers_outside_the_pages(run, plain, tmp_path):
    beton = open_beton(plain)
    member = beton.layout.metadata_offset + 7 * beton.metadata.itemsize + 5
    for pointer in (0, 100, beton.size_bytes - 10, 1 << 40, (1 << 64) - 1):
        result = run("verify", changed(plain, tmp_path / "x", {member: pointer}))
        assert result.exit_code == 1
        assert f"sample 7, field 'image': its payload at offset {pointer} " in result.stdout


def test_ghost_entries(run, plain, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(plain.read_bytes() + bytes(4096))
    result = run("verify", path)
    assert result.exit_code == 1
    assert "170 entries" in result.stdout and "belong to no record" in result.stdout


def test_a_table_that_lost_an_entry(run, plain, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(plain.read_bytes()[:-24])
    result = run("verify", path)
    assert result.exit_code == 1
    assert "has no matching entry in the allocation table" in result.stdout


def test_an_interrupted_write_of_ffcv(run, plain, tmp_path):
    result = run("verify", changed(plain, tmp_path / "x", {16: 0}))
    assert result.exit_code == 1
    assert "the writing of this file was interrupted" in result.stderr and result.stderr.count("\n") == 1


def test_odd_things_are_said_and_are_no_damage(run, root, tmp_path):
    for name, says in (
        ("empty", "empty payloads have the offset"),
        ("mixed", "not in file order"),
    ):
        path = tmp_path / f"{name}.beton"
        path.write_bytes(gzip.decompress((root / "tests/fixtures" / f"ffcv_{name}.beton.gz").read_bytes()))
        result = run("verify", path)
        assert result.exit_code == 0, result.output
        assert any(line.startswith("odd ") and says in line for line in result.stdout.splitlines())


def test_a_file_that_is_none(run, tmp_path):
    (tmp_path / "x").write_bytes(b"\xff\xd8\xff\xe0" * 30)
    os.mkfifo(tmp_path / "pipe")
    for name, status in (("x", 1), ("none", 2), ("pipe", 1)):
        result = run("verify", tmp_path / name)
        assert result.exit_code == status
        assert name in result.stderr and result.stderr.count("\n") == 1


# ---- every region of a file, and the processes that look at it


def flip(path, at, bit):
    with open(path, "r+b") as file:
        byte = os.pread(file.fileno(), 1, at)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), at)


def verdict(path):
    """What `verify` finds, without its printing: problems of the structure, bad samples."""
    try:
        beton = open_beton(path, check_sums=False)
        opened = Opened(beton, stored_fields(path, {}).fields, {})
    except FormatError as error:
        return [str(error)], []
    payloads = _collect(opened, decode=False)
    bad = [found for _, part in check_payloads(str(path), payloads, 1) for found in part]
    return verify_structure(beton), bad


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_anywhere_is_found_or_in_padding(small, tmp_path, data):
    beton = open_beton(small)
    table = beton.allocations
    regions = {
        "description": (0, beton.layout.metadata_end),
        "payloads": (beton.layout.data_offset, int((table["ptr"] + table["size"]).max())),
        "section and table": (beton.data_end, beton.size_bytes),
        "padding": (int((table["ptr"] + table["size"]).max()), beton.data_end),
    }
    region = data.draw(st.sampled_from(list(regions)))
    at, bit = data.draw(st.integers(regions[region][0], regions[region][1] - 1)), data.draw(st.integers(0, 7))
    path = tmp_path / "flipped.beton"
    shutil.copy(small, path)
    flip(path, at, bit)
    problems, bad = verdict(path)
    flip(path, at, bit)
    owned = ((table["ptr"] <= at) & (at < table["ptr"] + table["size"])).any()
    if region in ("description", "section and table"):
        assert problems
    else:
        assert len(bad) == owned and not problems
    assert verdict(path) == ([], [])


def test_a_checking_process_that_dies_is_an_error_and_no_hang(tmp_path, monkeypatch):
    monkeypatch.setattr("ffcv_gpu.cli.checking.TASK_BYTES", 100_000)
    content = os.urandom(3_000_000)
    (tmp_path / "bytes").write_bytes(content)
    payloads = payloads_of(content, list(range(0, 3_000_001, 1000)))
    checks = check_payloads(str(tmp_path / "bytes"), payloads, 2)
    next(checks)
    for child in multiprocessing.active_children():
        child.kill()
    with pytest.raises(ReadError, match="bytes: a process that checked it was killed"):
        list(checks)


def test_arrays_of_other_bytes_than_their_dtype(run, small, tmp_path):
    """Sides that divide the bytes, and a dtype that does not go with them; no checksum says so."""
    content = bytearray(small.read_bytes())
    field = 24 + 3 * 1041 + 17
    content[field : field + 16] = (2).to_bytes(8, "little") + (6).to_bytes(8, "little")
    (tmp_path / "x").write_bytes(content)
    result = run("verify", tmp_path / "x")
    assert result.exit_code == 1
    assert "the payload size of 14 samples (the first is 0) differs from the 48 bytes" in result.stdout
