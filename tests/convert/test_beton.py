"""A file as a dataset: what was written comes back, and writing it again gives the same file."""

from __future__ import annotations

import copy
import os
import pickle

import numpy as np
import pytest
import simplejpeg
import torch

from ffcv_gpu.convert.beton import BetonDataset
from ffcv_gpu.errors import DecodeError, PipelineError, ReadError
from ffcv_gpu.fields import (
    BytesField,
    Field,
    FloatField,
    ImageField,
    IntField,
    JSONField,
    MaskField,
    NDArrayField,
    RaggedField,
    RGBImageField,
    TorchTensorField,
)
from ffcv_gpu.format import open_beton
from ffcv_gpu.writer import DatasetWriter
from tests.small_file import damaged

FIELDS = {
    "image": RGBImageField(),
    "grey": ImageField(1, "uint16"),
    "mask": MaskField(),
    "label": IntField(),
    "weight": FloatField(),
    "text": BytesField(),
    "note": JSONField(),
    "vector": NDArrayField(np.dtype("float32"), (2, 3)),
    "tensor": TorchTensorField(torch.int16, (4,)),
    "boxes": RaggedField("float32", (4,)),
}


@pytest.fixture(scope="module")
def samples(make_photo):
    """Seven samples; every second image is a JPEG."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(7):
        photo = make_photo(30 + i, 50 - i, seed=i)
        image = simplejpeg.encode_jpeg(photo, 90) if i % 2 else photo
        grey = rng.integers(0, 60_000, (5, 4 + i, 1), dtype=np.uint16)
        mask = rng.integers(0, 9, (6, 7, 1), dtype=np.uint8)
        vector, tensor = rng.random((2, 3), np.float32), torch.arange(4, dtype=torch.int16) * i
        boxes = rng.random((i, 4), np.float32)
        found.append((image, grey, mask, i - 3, i / 7, b"x" * i, {"i": [i, "é"]}, vector, tensor, boxes))
    return found


@pytest.fixture(scope="module")
def path(tmp_path_factory, samples):
    path = tmp_path_factory.mktemp("beton") / "all.beton"
    writer = DatasetWriter(path, FIELDS, num_workers=1, progress=False, class_names=("a", "b"))
    writer.from_indexed_dataset(samples, source_ids=[f"source {i}" for i in range(7)])
    return path


def equal(one, other):
    assert type(one) is type(other)
    if isinstance(one, (np.ndarray, torch.Tensor)):
        assert one.dtype == other.dtype and one.shape == other.shape and (one == other).all()
    else:
        assert one == other


def test_values_are_those_that_were_written(path, samples):
    dataset = BetonDataset(path, decode=False)
    assert len(dataset) == 7 and list(dataset.fields) == list(FIELDS)
    assert dataset.classes == ("a", "b") and dataset.source_ids[3] == "source 3"
    for found, expected in zip(dataset, samples, strict=True):
        for one, other in zip(found, expected, strict=True):
            equal(one, other)


def test_jpegs_are_decoded_by_libjpeg_turbo(path, samples):
    for (image,), expected in zip(BetonDataset(path, ["image"]), samples, strict=True):
        jpeg = isinstance(expected[0], bytes)
        assert np.array_equal(image, simplejpeg.decode_jpeg(expected[0]) if jpeg else expected[0])


def test_values_can_be_changed(path):
    image, _, _, _, _, _, _, vector, *_ = BetonDataset(path)[0]
    image[:], vector[:] = 0, 0
    assert BetonDataset(path)[0][0].any()


def test_written_again_it_is_the_same_file(path, tmp_path):
    dataset, again = BetonDataset(path, decode=False), tmp_path / "again.beton"
    writer = DatasetWriter(again, dataset.fields, num_workers=2, progress=False, class_names=dataset.classes)
    writer.from_indexed_dataset(dataset)
    assert again.read_bytes() == path.read_bytes()


def test_a_field_is_added(path, samples, tmp_path):
    stored, more = BetonDataset(path, decode=False), tmp_path / "more.beton"
    wider = [(*stored[i], 0.5 * i) for i in range(len(stored))]
    DatasetWriter(more, {**stored.fields, "new": FloatField()}, progress=False).from_indexed_dataset(wider)
    for i, (found, expected) in enumerate(zip(BetonDataset(more, decode=False), samples, strict=True)):
        for one, other in zip(found, (*expected, 0.5 * i), strict=True):
            equal(one, other)


def test_chosen_fields_and_rows(path):
    dataset = BetonDataset(path, ["label", "text"])
    assert dataset[-1] == (3, b"xxxxxx") and dataset[1:3] == [(-2, b"x"), (-1, b"xx")]
    with pytest.raises(IndexError, match=r"all\.beton has 7 samples, and none at 7"):
        dataset[7]
    with pytest.raises(PipelineError, match="no field 'labels'; its fields are 'image'"):
        BetonDataset(path, ["labels"])
    with pytest.raises(PipelineError, match=r"list of names: \['label'\]"):
        BetonDataset(path, "label")


def test_a_column_of_numbers(path):
    dataset = BetonDataset(path)
    labels = dataset.column("label")
    assert labels.dtype == np.int64 and labels.tolist() == list(range(-3, 4))
    labels[:] = 0  # it is a copy
    assert dataset[0][list(FIELDS).index("label")] == -3
    for name in ("image", "labels"):
        with pytest.raises(PipelineError, match=rf"'{name}' is no field of numbers; these are: .*'label'"):
            dataset.column(name)


def test_it_can_be_pickled_and_feeds_a_dataloader(path, samples, monkeypatch):
    monkeypatch.chdir(path.parent)
    pickled = pickle.dumps(BetonDataset(path.name, ["vector", "label"]))
    monkeypatch.chdir("/")
    dataset = pickle.loads(pickled)
    loader = torch.utils.data.DataLoader(dataset, 7, num_workers=1, multiprocessing_context="fork")
    vectors, labels = next(iter(loader))
    assert torch.equal(vectors, torch.tensor(np.stack([sample[7] for sample in samples])))
    assert labels.tolist() == list(range(-3, 4))


class Doubled(BetonDataset):
    """What users write for a DataLoader."""

    def __init__(self, path, factor):
        super().__init__(path, ["label"])
        self.factor = factor

    def __getitem__(self, index):
        return self.factor * super().__getitem__(index)[0]


@pytest.mark.parametrize("copied", [copy.copy, lambda dataset: pickle.loads(pickle.dumps(dataset))],
                         ids=["copied", "pickled"])  # fmt: skip
def test_a_subclass_stays_what_it_is(path, copied):
    again = copied(Doubled(path, 10))
    assert type(again) is Doubled and list(again) == [-30, -20, -10, 0, 10, 20, 30]


def test_a_field_cannot_be_named_twice(path):
    with pytest.raises(PipelineError, match="names 'label' twice"):
        BetonDataset(path, ["label", "text", "label"])


def test_files_of_ffcv(reference_betons):
    """FFCV's own file: the labels that FFCV's writer was given, and images of the recorded size."""
    name = next(path for path in sorted(reference_betons.glob("*.beton")) if "mixed" not in path.name)
    beton = open_beton(name)
    field = next(name for name in beton.field_names if "height" in (beton.column(name).dtype.names or ()))
    for record, (image,) in zip(beton.column(field), BetonDataset(name, [field]), strict=True):
        assert image.shape == (record["height"], record["width"], 3)


def test_damage_is_named(samples, tmp_path):
    path = tmp_path / "one.beton"
    DatasetWriter(path, {"image": RGBImageField()}, num_workers=1, progress=False).from_indexed_dataset(
        [(sample[0],) for sample in samples]
    )
    offset = int(open_beton(path).offsets("image")[3])
    data = bytearray(path.read_bytes())
    data[offset + 1] ^= 255
    path.write_bytes(data)
    dataset = BetonDataset(path)
    dataset[2]
    where = rf"one.beton: sample 3, field 'image': payload of \d+ bytes at byte {offset}: .*checksum"
    with pytest.raises(ReadError, match=where) as caught:
        dataset[3]
    assert (caught.value.sample, caught.value.field, caught.value.offset) == (3, "image", offset)


def test_a_jpeg_that_cannot_be_decoded_is_named(tmp_path, make_photo):
    jpeg = bytearray(simplejpeg.encode_jpeg(make_photo(90, 120), 90))
    jpeg[-1000:-600] = b"\x55" * 400  # no codes of its Huffman tables
    path = tmp_path / "bad.beton"
    fields = {"image": RGBImageField(check="header")}
    DatasetWriter(path, fields, num_workers=1, progress=False).from_indexed_dataset([(bytes(jpeg),)])
    with pytest.raises(DecodeError, match=r"bad.beton: sample 0, field 'image': payload of \d+ bytes"):
        BetonDataset(path)[0]
    assert BetonDataset(path, decode=False)[0] == (bytes(jpeg),)


def test_a_file_that_was_cut_meanwhile_is_an_error(path, tmp_path):
    copy = tmp_path / "copy.beton"
    copy.write_bytes(path.read_bytes())
    dataset = BetonDataset(copy)
    os.truncate(copy, 5000)
    with pytest.raises(ReadError, match="truncated"):
        dataset[0]


class Halves(IntField):
    """A field of one's own."""

    @staticmethod
    def from_binary(binary):
        return Halves()

    def restore(self, record, payload):
        return int(record) / 2


class Silent(Halves):
    restore = Field.restore

    @staticmethod
    def from_binary(binary):
        return Silent()


def test_fields_of_ones_own(tmp_path):
    path = tmp_path / "own.beton"
    DatasetWriter(path, {"half": Halves()}, num_workers=1, progress=False).from_indexed_dataset([(3,), (5,)])
    assert list(BetonDataset(path, custom_fields={"half": Halves})) == [(1.5,), (2.5,)]
    with pytest.raises(PipelineError, match="Silent cannot restore single values: define restore"):
        BetonDataset(path, custom_fields={"half": Silent})[0]


def test_one_whose_constructor_raised_can_be_shown(tmp_path):
    dataset = object.__new__(BetonDataset)
    with pytest.raises(ReadError, match=r"none\.beton"):
        dataset.__init__(tmp_path / "none.beton")
    assert repr(dataset) == "BetonDataset: its constructor has not finished"


def test_a_url_is_refused():
    with pytest.raises(PipelineError, match="reads local files, not s3:"):
        BetonDataset("s3://bucket/x.beton")


def test_several_files_are_one_after_another(path, samples, tmp_path):
    stored, parts = BetonDataset(path, decode=False), [tmp_path / "a.beton", tmp_path / "b.beton"]
    for part, rows in zip(parts, (range(3), range(3, 7)), strict=True):
        writer = DatasetWriter(part, stored.fields, progress=False, class_names=stored.classes)
        writer.from_indexed_dataset(stored, rows)
    several = BetonDataset(parts, decode=False)
    for dataset in (several, pickle.loads(pickle.dumps(several))):
        assert len(dataset) == 7 and dataset.classes == stored.classes
        assert list(dataset.source_ids) == list(stored.source_ids)
        assert dataset.path.endswith("a.beton and 1 more file")
        for found, expected in zip(dataset, samples, strict=True):
            for one, other in zip(found, expected, strict=True):
                equal(one, other)
    assert several.column("label").tolist() == stored.column("label").tolist()
    DatasetWriter(tmp_path / "c.beton", {"label": IntField()}, progress=False).from_indexed_dataset(
        [(5,), (6,)]
    )
    mixed = BetonDataset([tmp_path / "c.beton"] * 2)
    assert mixed.source_ids is None and mixed[-1] == (6,)
    with pytest.raises(PipelineError, match="path is an empty list"):
        BetonDataset([])


def test_a_damaged_sample_of_several_files_is_named_by_its_file(path, tmp_path):
    bad = damaged(path, tmp_path, (2, "text"), at=0)
    with pytest.raises(
        ReadError, match=r"damaged\.beton: sample 2 \(row 9 of the 2 files\), field 'text'"
    ) as caught:
        BetonDataset([path, bad])[9]
    assert caught.value.offset == BetonDataset(path)._file.payloads("text").offsets[2]
    assert caught.value.sample == 9
