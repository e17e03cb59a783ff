"""Files that FFCV itself wrote: the reference set with what FFCV reads there, and two of the repository."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from ffcv_gpu.errors import FormatError
from ffcv_gpu.format import open_beton, verify_structure

FIXTURES = Path(__file__).parents[1] / "fixtures"
CUSTOM = {"tag": np.dtype("<u8")}  # the reference set's one custom field: 24 bytes of text, by pointer


def reference(folder, name):
    """A file of the reference set, unpacked, and what FFCV read from it."""
    return folder / f"{name}.beton", np.load(folder / f"{name}.npz")


def unpack(name, folder):
    """A file of the repository out of its .gz into a folder."""
    path = folder / f"{name}.beton"
    path.write_bytes(gzip.decompress((FIXTURES / f"{name}.beton.gz").read_bytes()))
    return path


def payload(beton, name, sample):
    begin = beton.offsets(name)[sample]
    return beton.data[begin : begin + beton.lengths(name)[sample]]


def pixels(beton, name, sample):
    """The image as FFCV decodes it: libjpeg-turbo's fast DCT gives FFCV's pixels exactly."""
    simplejpeg = pytest.importorskip("simplejpeg")
    record, data = beton.column(name)[sample], payload(beton, name, sample)
    if record["mode"] == 1:
        return data.reshape(record["height"], record["width"], 3)
    return simplejpeg.decode_jpeg(data.tobytes(), fastdct=True)


# ------------------------------------------------------------------------------------- FFCV's own files


@pytest.mark.parametrize("name", ["jpg", "raw", "mixed", "scalars"])
def test_reference_file_has_the_header_record_and_table_that_ffcv_wrote(name, reference_betons):
    path, want = reference(reference_betons, name)
    beton = open_beton(path, CUSTOM)
    assert beton.path == str(path)
    found = (beton.version, len(beton.fields), beton.page_size, beton.num_samples, beton.table_offset)
    keys = ("version", "num_fields", "page_size", "num_samples", "alloc_table_ptr")
    assert found == tuple(int(want[key]) for key in keys)
    assert beton.size_bytes == want["file_size"]
    assert list(beton.field_names) == want["field_names"].tolist()
    assert [field.type_id for field in beton.fields] == want["field_type_ids"].tolist()
    dtype = beton.metadata.dtype
    assert dtype.itemsize == want["metadata_itemsize"]
    assert [dtype.fields[f"f{k}"][1] for k in range(len(beton.fields))] == want["metadata_offsets"].tolist()
    assert beton.metadata.tobytes() == want["metadata_bytes"].tobytes()
    for member, key in (("sample_id", "alloc_sample_id"), ("ptr", "alloc_ptr"), ("size", "alloc_size")):
        np.testing.assert_array_equal(beton.allocations[member], want[key])
    assert beton.section is None
    assert verify_structure(beton) == []


@pytest.mark.parametrize("name", ["jpg", "raw", "mixed"])
def test_reference_images_are_those_that_ffcv_decodes(name, reference_betons):
    path, want = reference(reference_betons, name)
    beton = open_beton(path, CUSTOM)
    for k in range(beton.num_samples):
        expected = want["loader_image"][k] if name == "raw" else want[f"image_{k:02d}"]
        np.testing.assert_array_equal(pixels(beton, "image", k), expected)
        if name == "mixed":
            np.testing.assert_array_equal(pixels(beton, "sixteen_chars_ok", k), want["small"][k])


def test_reference_lengths_are_those_of_the_table(reference_betons):
    path, want = reference(reference_betons, "jpg")
    beton = open_beton(path)
    # One allocation a sample, and FFCV's single worker wrote them in order.
    np.testing.assert_array_equal(beton.lengths("image"), want["alloc_size"])
    np.testing.assert_array_equal(beton.offsets("image"), want["image_ptr"])
    np.testing.assert_array_equal(beton.lengths("label"), np.zeros(24))
    np.testing.assert_array_equal(beton.column("label"), want["label"])
    np.testing.assert_array_equal(beton.sample_pages(), want["alloc_ptr"] // want["page_size"])
    assert beton.checksums("image") is None
    assert beton.facts("image") is None


def test_reference_file_with_every_field_reads_back_whole(reference_betons):
    path, want = reference(reference_betons, "mixed")
    beton = open_beton(path, CUSTOM)
    for k in range(beton.num_samples):
        np.testing.assert_array_equal(payload(beton, "vector", k).view("<f4"), want["vector"][k].ravel())
        np.testing.assert_array_equal(payload(beton, "tensor", k).view("<i8"), want["tensor"][k])
        text = payload(beton, "meta", k).tobytes()
        assert text[-1:] == b"\0"
        assert json.loads(text[:-1]) == json.loads(str(want["meta_json"][k]))
        assert payload(beton, "tag", k).tobytes().rstrip(b"\0").decode() == want["tag"][k]
    blobs = [payload(beton, "blob", k) for k in range(beton.num_samples)]
    np.testing.assert_array_equal(np.concatenate(blobs), want["blob"])
    np.testing.assert_array_equal(beton.lengths("blob"), want["blob_size"])
    np.testing.assert_array_equal(beton.column("label"), want["label"])
    np.testing.assert_array_equal(beton.column("score"), want["score"])


def test_scalar_columns_of_a_file_without_pages(reference_betons):
    path, want = reference(reference_betons, "scalars")
    beton = open_beton(path)
    np.testing.assert_array_equal(beton.column("a"), want["a"])
    np.testing.assert_array_equal(beton.column("b"), want["b"])
    assert beton.sample_pages().tolist() == [-1] * 24


def test_a_file_of_two_ffcv_workers_with_its_table_out_of_order(tmp_path):
    path, want = unpack("ffcv_mixed", tmp_path), np.load(FIXTURES / "ffcv_mixed.npz")
    beton = open_beton(path)
    assert np.any(np.diff(beton.allocations["ptr"].astype(np.int64)) < 0), "the fixture must be out of order"
    assert verify_structure(beton) == []
    np.testing.assert_array_equal(beton.column("label"), want["label"][:, 0])
    np.testing.assert_array_equal(beton.column("score"), want["score"][:, 0])
    for k in range(beton.num_samples):
        np.testing.assert_array_equal(pixels(beton, "raw", k), want["raw"][k])
        np.testing.assert_array_equal(payload(beton, "vector", k).view("<f4"), want["vector"][k].ravel())
        np.testing.assert_array_equal(payload(beton, "words", k), want["words"][k, : 3 * k + 1])
        assert json.loads(payload(beton, "meta", k).tobytes()[:-1]) == json.loads(str(want["meta"][k]))
        assert pixels(beton, "sixteen_chars_ok", k).shape == (16 + k, 30 - k, 3)
    assert beton.sample_pages().tolist() == [1, 2, 1, 2, 1, 2, 3, 4, 3, 4, 3]


def test_empty_allocations_do_not_touch_their_neighbours(tmp_path):
    # FFCV itself returns wrong bytes for some of these; its first entry even points a page before the first.
    path = unpack("ffcv_empty", tmp_path)
    beton = open_beton(path)
    assert beton.allocations[0].tolist() == (0, 0, 0)
    for k in range(11):
        expected = [] if k % 3 == 0 else list(range(3 * k + 1))
        assert payload(beton, "blob", k).tolist() == expected
    assert beton.sample_pages().tolist() == [-1 if k % 3 == 0 else 1 for k in range(11)]
    assert verify_structure(beton) == []


@pytest.mark.parametrize("extra", [1, 23])
def test_a_few_trailing_bytes_are_passed_over(extra, tmp_path):
    path = unpack("ffcv_mixed", tmp_path)
    clean = open_beton(path).lengths("words").copy()
    with open(path, "ab") as file:
        file.write(b"\xff" * extra)
    np.testing.assert_array_equal(open_beton(path).lengths("words"), clean)


def test_zeros_behind_the_table_change_nothing(tmp_path):
    # They look like entries of sample 0, which make FFCV repeat one sample of QUASI_RANDOM and drop another.
    path = unpack("ffcv_mixed", tmp_path)
    clean = open_beton(path)
    with open(path, "ab") as file:
        file.write(bytes(4096))
    padded = open_beton(path)
    assert len(padded.allocations) == len(clean.allocations) + 4096 // 24
    np.testing.assert_array_equal(padded.sample_pages(), clean.sample_pages())
    for name in padded.field_names:
        np.testing.assert_array_equal(padded.lengths(name), clean.lengths(name))


def test_garbage_behind_the_table_is_refused(tmp_path):
    path = unpack("ffcv_mixed", tmp_path)
    with open(path, "ab") as file:
        file.write(b"\x7f" * 24)
    with pytest.raises(FormatError, match=r"entry 66 of the allocation table .* outside the pages"):
        open_beton(path)


def test_an_interrupted_write_is_refused(tmp_path):
    path = unpack("ffcv_mixed", tmp_path)
    with open(path, "r+b") as file:
        file.seek(16)
        file.write(bytes(8))
    with pytest.raises(FormatError, match="the writing of this file was interrupted"):
        open_beton(path)


def test_a_table_without_its_last_entry_is_refused_when_asked(tmp_path):
    # Without an error FFCV returns another sample's bytes here.
    path = unpack("ffcv_mixed", tmp_path)
    os.truncate(path, path.stat().st_size - 24)
    beton = open_beton(path)
    with pytest.raises(FormatError, match=r"sample 9, field 'bulk'.*600000 bytes.*no matching entry"):
        beton.lengths("bulk")
    assert any("'bulk'" in problem for problem in verify_structure(beton))


def test_custom_fields_need_their_record(reference_betons):
    path, want = reference(reference_betons, "mixed")
    with pytest.raises(FormatError, match=r"'tag' is of a custom class .* custom_fields"):
        open_beton(path)
    beton = open_beton(path, {"tag": np.dtype([("place", "<u8")])})
    with pytest.raises(FormatError, match="which of its members is the pointer"):
        beton.lengths("tag")
    np.testing.assert_array_equal(beton.lengths("tag", "place"), np.full(24, 24))
    assert beton.data[beton.offsets("tag", "place")[3] :][:8].tobytes() == want["tag"][3].encode()


@pytest.mark.parametrize("replace", ["replaced", "deleted"])
def test_an_open_file_outlives_its_name(replace, tmp_path):
    path = unpack("ffcv_mixed", tmp_path)
    beton, again = open_beton(path), open_beton(path)
    if replace == "replaced":
        other = tmp_path / "other"
        other.write_bytes(bytes(path.stat().st_size))
        os.replace(other, path)
    else:
        path.unlink()
    # Nothing of `beton` was computed before; `again` has its pages mapped already.
    np.testing.assert_array_equal(beton.lengths("words"), 3 * np.arange(11) + 1)
    np.testing.assert_array_equal(payload(beton, "words", 10), np.arange(31))
    assert again.metadata.tobytes() == beton.metadata.tobytes()


def test_arrays_are_read_only_and_outlive_the_beton(tmp_path):
    path = unpack("ffcv_mixed", tmp_path)
    beton = open_beton(path)
    column, lengths = beton.column("label"), beton.lengths("words")
    for array in (
        column,
        lengths,
        beton.data,
        beton.allocations,
        beton.sample_pages(),
        beton.lengths("label"),
    ):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[1]
    del beton
    assert column.tolist() == list(range(-3, 8))


def test_an_unknown_field_is_named(tmp_path):
    path = unpack("ffcv_mixed", tmp_path)
    with pytest.raises(KeyError, match=r"no field 'picture'; it has raw, label"):
        open_beton(path).lengths("picture")
