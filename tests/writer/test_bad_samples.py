"""Every kind of bad input raises one clear error in the caller and leaves no file. (FFCV hangs on each.)"""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from ffcv_gpu.errors import PipelineError, SampleError
from ffcv_gpu.fields import (
    BytesField,
    Field,
    FloatField,
    IntField,
    JSONField,
    NDArrayField,
    RGBImageField,
    TorchTensorField,
)
from ffcv_gpu.fields.base import ARG_TYPE
from ffcv_gpu.format import MIN_PAGE_SIZE, open_beton
from ffcv_gpu.writer import DatasetWriter

PIXELS = np.zeros((8, 8, 3), np.uint8)
ARRAY = NDArrayField(np.dtype("<f4"), (4,))
FOUR = np.zeros(4, "<f4")


class Forgetful(Field):
    """Calls malloc and does not store the pointer."""

    metadata_type = np.dtype("<u8")
    from_binary = staticmethod(lambda binary: Forgetful())

    def to_binary(self):
        return np.zeros(1, ARG_TYPE)[0]

    def encode(self, destination, value, malloc):
        _, memory = malloc(8)
        memory[:] = 1
        if value:
            raise ZeroDivisionError("of its own")


# field, a good value, a bad one, what the message says
CASES = {
    "unreadable image": (RGBImageField(), PIXELS, b"\xff\xd8\xff\xe0garbage", "unreadable image"),
    "no such path": (RGBImageField(), PIXELS, "/no/such.jpg", "cannot read '/no/such.jpg'"),
    "grey pixels": (RGBImageField(), PIXELS, PIXELS[..., 0], "give uint8 (height, width, 3)"),
    "float pixels": (RGBImageField(), PIXELS, PIXELS / 1, "dtype float64"),
    "side over 65535": (RGBImageField(), PIXELS, np.zeros((1, 70000, 3), np.uint8), "at most 65535"),
    "array shape": (
        ARRAY,
        np.zeros(4, "<f4"),
        np.zeros((2, 2), "<f4"),
        "expected dtype float32 and shape (4,)",
    ),
    "array dtype": (ARRAY, FOUR, np.zeros(2, "<f8"), "expected dtype float32 and shape (4,)"),
    "tensor dtype": (TorchTensorField(torch.int64, (1,)), torch.tensor([1]), torch.tensor([1.0]), "int64"),
    "fraction": (IntField(), 1, 1.7, "1.7 is not a whole number"),
    "text for float": (FloatField(), 1.0, "one", "not a number"),
    "text for bytes": (BytesField(), b"a", "a", "encode('utf-8')"),
    "set for document": (JSONField(), {}, {1}, "JSON cannot hold this set"),
    "larger than a page": (
        BytesField(),
        b"a",
        b"a" * (MIN_PAGE_SIZE + 1),
        f"give page_size={2 * MIN_PAGE_SIZE}",
    ),
    "field's own error": (Forgetful(), None, 1, "Forgetful.encode raised ZeroDivisionError: of its own"),
}


def attempt(folder, fields, samples, workers):
    path = folder / "a.beton"
    path.write_bytes(b"old")
    writer = DatasetWriter(path, fields, MIN_PAGE_SIZE, workers, progress=False)
    with pytest.raises(SampleError) as caught:
        writer.from_indexed_dataset(samples, chunksize=2)
    assert path.read_bytes() == b"old" and os.listdir(folder) == ["a.beton"]
    assert multiprocessing.active_children() == []
    return str(caught.value)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_a_bad_value(tmp_path, name, workers):
    field, good, bad, says = CASES[name]
    samples = [(k, bad if k == 11 else good) for k in range(20)]
    if name == "field's own error":
        field = Forgetful()
        samples = samples[11:12]
    message = attempt(tmp_path, {"number": IntField(), "value": field}, samples, workers)
    row = 0 if name == "field's own error" else 11
    assert message.startswith(f"sample {row} (dataset[{row}]), field 'value': ")
    assert says in message


def test_a_field_that_loses_its_pointer(tmp_path):
    message = attempt(tmp_path, {"x": Forgetful()}, [(0,), (0,)], 1)
    assert "sample 0, field 'x': Forgetful.encode called malloc but stored no pointer" in message


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("sample", "says"),
    [
        ((1,), "returned 1 value, expected a tuple of 2: (a, b), or a mapping of them"),
        ((), "returned 0 values"),
        (7, "returned type int, expected a tuple of 2: (a, b)"),
        ("ab", "returned type str"),
        (np.zeros((9, 3)), "returned type ndarray, expected"),  # an image, not nine values
        (b"ab", "returned type bytes"),
        ({"a": 1, "c": 2}, "returned a mapping without 'b'; its keys are 'a', 'c'"),
        (None, "returned type NoneType"),
    ],
)
def test_a_wrong_number_of_values(tmp_path, sample, says, workers):
    samples = [(1, 2)] * 5 + [sample] + [(1, 2)] * 5
    message = attempt(tmp_path, {"a": IntField(), "b": IntField()}, samples, workers)
    assert message.startswith("sample 5 (dataset[5]): the dataset ") and says in message


@pytest.mark.parametrize("workers", [1, 2])
def test_more_values_than_fields_are_left_out_and_told_once(tmp_path, workers, caplog):
    """As in FFCV: an ImageFolder for a file of images alone."""
    path = tmp_path / "a.beton"
    writer = DatasetWriter(path, {"a": IntField(), "b": IntField()}, num_workers=workers, progress=False)
    writer.from_indexed_dataset([(i, -i, "name") for i in range(20)], chunksize=2)
    assert open_beton(path).metadata.tolist() == [(i, -i) for i in range(20)]
    if workers == 1:  # else in a process of its own
        assert caplog.messages == [
            "sample 0 (dataset[0]): the dataset returned 3 values, but there are fields for the first 2 only"
            " (a, b); the others are not stored"
        ]
        writer.from_indexed_dataset([(1, 2), (3, 4, 5), (6, 7)])
        assert "sample 1 (dataset[1])" in caplog.messages[1] and len(caplog.messages) == 2


class Numpys:
    """Calls a method that only numpy's integers have, as datasets written for FFCV may."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return (index.item() * 2,)


def test_an_index_may_be_asked_for_what_only_numpys_have(tmp_path):
    path = tmp_path / "a.beton"
    DatasetWriter(path, {"a": IntField()}, num_workers=1).from_indexed_dataset(Numpys())
    assert open_beton(path).metadata.tolist() == [(0,), (2,), (4,)]
    assert "AttributeError: 'int' object has no attribute 'name'" in attempt(
        tmp_path, {"a": IntField()}, Unnamed(), 1
    )


class Unnamed(Numpys):
    def __getitem__(self, index):
        return (index.name,)


def test_a_sample_of_one_value_is_a_tuple_too(tmp_path):
    message = attempt(tmp_path, {"a": IntField()}, [7], 1)
    assert "returned type int, expected a tuple of 1: (a,), or a mapping of them" in message


@pytest.mark.parametrize("path", ["photos", Path("photos")])
def test_a_path_is_no_dataset(tmp_path, path):
    with pytest.raises(PipelineError, match=r"the dataset is a path, 'photos'.*ImageFolder\(path\) reads"):
        DatasetWriter(tmp_path / "a.beton", {"a": IntField()}).from_indexed_dataset(path)


@pytest.mark.parametrize("sample", [[1, 2], np.array([1, 2]), (1, 2), {"b": 2, "other": 3, "a": 1}])
def test_lists_rows_and_mappings_are_samples_too(tmp_path, sample):
    path = tmp_path / "a.beton"
    DatasetWriter(path, {"a": IntField(), "b": IntField()}).from_indexed_dataset([sample])
    assert open_beton(path).metadata.tolist() == [(1, 2)]


def test_all_of_a_sample_must_fit_into_a_page(tmp_path):
    half = b"a" * (MIN_PAGE_SIZE // 2)
    fields = {"a": BytesField(), "b": BytesField(), "c": BytesField()}
    assert DatasetWriter(tmp_path / "ok.beton", fields, MIN_PAGE_SIZE).from_indexed_dataset(
        [(half, half[1:], b"c")]
    )
    (tmp_path / "ok.beton").unlink()
    message = attempt(tmp_path, fields, [(half, half, b"")], 1)
    taken = f"the sample takes {MIN_PAGE_SIZE + 1} bytes, but a page holds {MIN_PAGE_SIZE}"
    assert f"field 'c': {taken}" in message
    assert f"give page_size={2 * MIN_PAGE_SIZE}" in message


def test_the_page_size_named_is_the_one_for_all_fields(tmp_path):
    big = b"a" * MIN_PAGE_SIZE
    message = attempt(
        tmp_path, {"a": BytesField(), "b": BytesField(), "c": BytesField()}, [(big, big, big)], 1
    )
    assert f"the sample takes {3 * MIN_PAGE_SIZE} bytes" in message
    assert f"give page_size={4 * MIN_PAGE_SIZE}" in message


class Huge(Field):
    """Asks for more than any page holds."""

    metadata_type = np.dtype("<u8")
    from_binary = staticmethod(lambda binary: Huge())

    def to_binary(self):
        return np.zeros(1, ARG_TYPE)[0]

    def encode(self, destination, value, malloc):
        destination[0], _ = malloc(value)


def test_what_no_page_holds(tmp_path):
    assert "no page_size is large enough" in attempt(tmp_path, {"x": Huge()}, [(1 << 32,)], 1)
    assert "raised ValueError: malloc(-1)" in attempt(tmp_path, {"x": Huge()}, [(-1,)], 1)
    assert "raised TypeError" in attempt(tmp_path, {"x": Huge()}, [(1.5,)], 1)


def test_a_page_that_is_exactly_full(tmp_path):
    path = tmp_path / "a.beton"
    values = [os.urandom(MIN_PAGE_SIZE), b"", os.urandom(MIN_PAGE_SIZE), b"x"]
    DatasetWriter(path, {"x": BytesField()}, MIN_PAGE_SIZE, 1).from_indexed_dataset([(v,) for v in values])
    beton, raw = open_beton(path), path.read_bytes()
    for k, value in enumerate(values):
        offset, length = int(beton.offsets("x")[k]), int(beton.lengths("x")[k])
        assert raw[offset : offset + length] == value
    assert beton.sample_pages()[[0, 2, 3]].tolist() == [1, 3, 4]
