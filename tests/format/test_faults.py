"""What `verify_structure` and `structure_notes` say of files that open and are not as they should be."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from ffcv_gpu.fields import IntField, NDArrayField
from ffcv_gpu.format import open_beton, structure_notes, verify_structure
from ffcv_gpu.writer import DatasetWriter

FIXTURES = Path(__file__).parents[1] / "fixtures"


def unpacked(name, folder):
    path = folder / name
    path.write_bytes(gzip.decompress((FIXTURES / f"{name}.gz").read_bytes()))
    return path


@pytest.mark.parametrize("name", ["ffcv_mixed.beton", "ffcv_empty.beton", "section_v1.beton"])
def test_good_files_have_no_fault(name, tmp_path):
    assert verify_structure(open_beton(unpacked(name, tmp_path))) == []


def test_odd_things_of_ffcvs_files_are_named_and_are_no_fault(tmp_path):
    mixed = structure_notes(open_beton(unpacked("ffcv_mixed.beton", tmp_path)))
    assert ["not in file order" in note for note in mixed].count(True) == 1
    path = unpacked("ffcv_empty.beton", tmp_path)
    table = open_beton(path).allocations
    _, counts = np.unique(table["ptr"], return_counts=True)
    assert (table["size"] == 0).any() and (counts > 1).any()
    assert any("empty payloads have the offset" in note for note in structure_notes(open_beton(path)))


def test_our_own_files_have_nothing_odd(tmp_path):
    path = tmp_path / "x"
    DatasetWriter(path, {"a": NDArrayField("u1", 3), "b": IntField()}).from_indexed_dataset(
        [(np.zeros(3, np.uint8), k) for k in range(9)]
    )
    assert structure_notes(open_beton(path)) == []


@pytest.mark.parametrize("entries", [1, 3, 170])
def test_zeros_behind_a_plain_file_are_entries_of_nobody(entries, tmp_path, files):
    """FFCV takes them for entries of sample 0 and its quasi-random order goes wrong."""
    path = files.write(tmp_path / "x", files.small(), section=False)
    with open(path, "ab") as file:
        file.write(bytes(24 * entries))
    beton = open_beton(path)
    files.check(beton, files.small())
    (problem,) = verify_structure(beton)
    assert f"allocation table: {entries} entries, the first of them" in problem
    assert "belong to no record" in problem
    assert structure_notes(beton)[0].startswith("allocation table") is False


def test_up_to_23_bytes_behind_the_table_are_odd(tmp_path, files):
    path = files.write(tmp_path / "x", files.small(), section=False)
    with open(path, "ab") as file:
        file.write(b"x" * 23)
    assert verify_structure(open_beton(path)) == []
    assert "23 bytes follow the allocation table, which FFCV ignores" in structure_notes(open_beton(path))


def test_an_entry_that_no_record_points_to(tmp_path, files):
    path = files.write(tmp_path / "x", files.small(), section=False)
    beton = open_beton(path)
    end = int(beton.offsets("vector")[4] + beton.lengths("vector")[4])
    with open(path, "ab") as file:
        file.write(np.array([2, end, 5], "<u8").tobytes())
    (problem,) = verify_structure(open_beton(path))
    assert f"(2, {end}, 5)" in problem and "belong to no record" in problem


def test_custom_fields_are_looked_at_where_their_pointers_are_known(tmp_path, files):
    columns = [("text", 4, [b"abc", b"de"])]
    path = files.patch(files.write(tmp_path / "x", columns, section=False), 24, b"\xff")
    with open(path, "ab") as file:
        file.write(bytes(24))
    beton = open_beton(path, {"text": np.dtype("<u8")})
    assert verify_structure(beton) == []  # nobody said where the pointers are
    assert "belong to no record" in verify_structure(beton, {"text": ("",)})[0]
