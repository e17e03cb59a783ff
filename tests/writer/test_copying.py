"""Samples are compared with their checksums when they are copied: by merging, and by appending."""

from __future__ import annotations

import os

import numpy as np
import pytest

from ffcv_gpu.errors import ReadError
from ffcv_gpu.fields import BytesField, IntField
from ffcv_gpu.format import MIN_PAGE_SIZE, open_beton
from ffcv_gpu.writer import DatasetWriter, merge_files

FIELDS = {"text": BytesField(), "label": IntField()}
#: payloads of several copied blocks, of less than one, of a whole page, and none
SIZES = (3_000_000, 10, 700_000, 0, 4 << 20, 900_000, 1, 1_500_000)
PAGE_SIZE = 2 * MIN_PAGE_SIZE


@pytest.fixture(scope="module")
def samples():
    draws = np.random.default_rng(0)
    return [(draws.integers(0, 256, size, np.uint8).tobytes(), k) for k, size in enumerate(SIZES)]


def writer(path, **options):
    return DatasetWriter(path, FIELDS, PAGE_SIZE, 1, progress=False, fsync=False, **options)


def write(path, samples, **options):
    writer(path).from_indexed_dataset(samples, **options)
    return path


def damage(path, sample, byte):
    """Change one byte of a sample's text, -1 the last; return where the text begins in the file."""
    beton = open_beton(path)
    begin, length = int(beton.offsets("text")[sample]), int(beton.lengths("text")[sample])
    at = begin + byte % length
    with open(path, "r+b") as file:
        file.seek(at)
        value = file.read(1)[0]
        file.seek(at)
        file.write(bytes([value ^ 1]))
    return begin


DAMAGE = [(sample, byte) for sample, size in enumerate(SIZES) if size for byte in (0, size // 2, -1)]


@pytest.mark.parametrize(("sample", "byte"), DAMAGE)
def test_a_damaged_sample_is_not_merged(tmp_path, samples, sample, byte):
    good, bad = write(tmp_path / "good", samples), write(tmp_path / "bad", samples)
    at = damage(bad, sample, byte)
    says = f"bad: sample {sample}, {SIZES[sample]} bytes at byte {at}: CRC32C is .* nothing was written now"
    with pytest.raises(ReadError, match=says) as raised:
        merge_files([good, bad], tmp_path / "all")
    assert (raised.value.sample, raised.value.offset) == (sample, at)
    assert sorted(os.listdir(tmp_path)) == ["bad", "good"]


def test_a_damaged_file_is_not_replaced_by_a_merge_onto_itself(tmp_path, samples):
    path = write(tmp_path / "a", samples)
    damage(path, 2, 5)
    before = path.read_bytes()
    with pytest.raises(ReadError, match=r"a: sample 2, .* `ffcv-gpu verify"):
        merge_files([path, path], path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a"]


def test_a_damaged_shard_is_not_merged(tmp_path, samples):
    for number in range(2):
        write(tmp_path / "a.beton", samples, shard=(number, 2))
    shards = sorted(tmp_path.iterdir())
    damage(shards[1], 3, -1)
    with pytest.raises(ReadError, match=r"a-00001-of-00002\.beton: sample 3, 1500000 bytes at byte"):
        merge_files(shards, tmp_path / "a.beton")
    assert sorted(tmp_path.iterdir()) == shards


def test_nothing_is_appended_to_a_damaged_file(tmp_path, samples):
    path = write(tmp_path / "a", samples)
    at = damage(path, 4, 1000)
    before = path.read_bytes()
    with pytest.raises(ReadError, match=f"a: sample 4, {SIZES[4]} bytes at byte {at}: CRC32C is"):
        writer(path).append(samples)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a"]


def test_a_damaged_file_that_was_restored_is_appended_to(tmp_path, samples):
    """Also by a writer that resumes, which keeps what it began."""
    path, once = write(tmp_path / "a", samples), write(tmp_path / "b", samples)
    good = path.read_bytes()
    damage(path, 4, 1000)
    with pytest.raises(ReadError, match="a: sample 4"):
        writer(path, resume=True).append(samples)
    path.write_bytes(good)
    writer(path, resume=True).append(samples)
    writer(once).append(samples)
    assert path.read_bytes() == once.read_bytes() and sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_whole_samples_are_merged_whatever_their_sizes(tmp_path, samples):
    path = write(tmp_path / "a", samples)
    merge_files([path, path], tmp_path / "twice")
    beton = open_beton(tmp_path / "twice")
    places = zip(beton.offsets("text").tolist(), beton.lengths("text").tolist(), strict=True)
    assert [beton.data[at : at + size].tobytes() for at, size in places] == 2 * [text for text, _ in samples]


def test_the_other_samples_can_be_kept(tmp_path, samples):
    """As the error says: by writing the file again without the damaged ones."""
    from ffcv_gpu.convert.beton import BetonDataset

    path = write(tmp_path / "a", samples)
    damage(path, 5, 0)
    report = writer(tmp_path / "b", on_error="skip").from_indexed_dataset(BetonDataset(path))
    assert [skip.position for skip in report.skipped] == [5]
    merge_files([tmp_path / "b"], tmp_path / "c")
    assert open_beton(tmp_path / "c").num_samples == len(samples) - 1
