"""What a written file holds, read by a reader that shares no code with the writer; arguments; reports."""

from __future__ import annotations

import os

import google_crc32c
import numpy as np
import pytest
import torch

from ffcv_gpu.errors import FormatError, PipelineError, SampleError
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
from ffcv_gpu.format import JpegFlag, open_beton, verify_structure
from ffcv_gpu.writer import MAX_PAGE_SIZE, MIN_PAGE_SIZE, DatasetWriter

HEADER = np.dtype([("v", "<u2"), ("f", "<u2"), ("page", "<u4"), ("n", "<u8"), ("table", "<u8")])
TABLE = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])


class File:
    """A file taken apart by FFCV's rules alone (a pointer's length is found in the table)."""

    def __init__(self, path, record):
        self.raw = path.read_bytes()
        self.header = np.frombuffer(self.raw, HEADER, 1)[0]
        record = np.dtype([(f"f{k}", dtype) for k, dtype in enumerate(record)], align=True)
        count = int(self.header["n"])
        self.rows = np.frombuffer(self.raw, record, count, 24 + 1041 * int(self.header["f"]))
        self.table = np.frombuffer(self.raw[int(self.header["table"]) :], TABLE)
        self.sizes = dict(zip(self.table["ptr"].tolist(), self.table["size"].tolist(), strict=True))

    def payload(self, pointer):
        return self.raw[int(pointer) : int(pointer) + self.sizes[int(pointer)]]


class Mask(Field):
    """A custom field with only FFCV's five members: two payloads, pointers at places of its choice."""

    metadata_type = np.dtype([("kind", "u1"), ("where", "<u8", (2,))])

    def to_binary(self):
        row = np.zeros(1, ARG_TYPE)[0]
        row[0][:3] = (1, 2, 3)
        return row

    @staticmethod
    def from_binary(binary):
        assert binary[:3].tolist() == [1, 2, 3]
        return Mask()

    def encode(self, destination, value, malloc):
        first, one = malloc(len(value))
        second, other = malloc(4)
        one[:] = value
        other[:2] = 7  # the rest stays zero, as in FFCV's fresh pages
        destination["kind"] = 5
        destination["where"] = (first, second)

    def get_decoder_class(self):
        raise AssertionError("not asked for")


FIELDS = {
    "image": RGBImageField("proportion"),
    "label": IntField(),
    "exactly 16 bytes": FloatField(),
    "array": NDArrayField(np.dtype("<f4"), (3, 5)),
    "tensor": TorchTensorField(torch.int64, (7,)),
    "doc": JSONField(),
    "text": BytesField(),
    "mask": Mask(),
}
RECORD = [field.metadata_type for field in FIELDS.values()]


def sample(k, photo):
    array = np.full((3, 5), k, np.float32)
    text = bytes([k % 256]) * (k % 4)
    return photo, k, k / 3, array, torch.full((7,), -k), {"k": k, "ü": "ß"}, text, np.arange(k % 6)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, make_photo):
    samples = [sample(k, make_photo(20 + k, 30, k)) for k in range(60)]
    path = tmp_path_factory.mktemp("mixed") / "mixed.beton"
    report = DatasetWriter(path, FIELDS, MIN_PAGE_SIZE, 2, progress=False).from_indexed_dataset(
        samples, None, 7
    )
    return path, samples, report


def test_all_fields_read_back_by_ffcvs_rules(mixed):
    path, samples, _ = mixed
    file = File(path, RECORD)
    assert file.header["v"] == 2 and len(file.rows) == 60
    for k, (photo, label, score, array, tensor, _, text, mask) in enumerate(samples):
        image, *numbers = file.rows[k].tolist()
        if image[0] == 1:
            assert file.payload(image[3]) == photo.tobytes() and image[1:3] == photo.shape[1::-1]
        else:
            assert file.payload(image[3])[:3] == b"\xff\xd8\xff"
        assert numbers[:2] == [label, score]
        assert file.payload(numbers[2]) == array.tobytes()
        assert file.payload(numbers[3]) == tensor.numpy().tobytes()
        assert file.payload(numbers[4][0]) == b'{"k": %d, "\\u00fc": "\\u00df"}\0' % k
        assert file.payload(numbers[5][0]) == text and numbers[5][1] == len(text)
        kind, (first, second) = numbers[6]
        assert (kind, file.payload(first)) == (5, mask.astype(np.uint8).tobytes())
        assert file.payload(second) == b"\7\7\0\0"


def test_pointers_are_unique_and_samples_keep_to_a_page(mixed):
    path, _, _ = mixed
    file = File(path, RECORD)
    # quirk 4: an empty value that shared its pointer would be read in place of its neighbour
    assert len(file.sizes) == len(file.table) == 60 * 7
    assert (file.table["size"] == 0).sum() > 20
    assert (np.diff(file.table["ptr"].astype(np.int64)) > 0).all()
    first = file.table["ptr"] // MIN_PAGE_SIZE
    last = (file.table["ptr"] + np.maximum(file.table["size"], 1) - 1) // MIN_PAGE_SIZE
    assert (first == last).all()
    for k in range(60):
        assert len(set(first[file.table["sample_id"] == k])) == 1


def test_our_own_reader_agrees_and_finds_no_fault(mixed):
    path, samples, _ = mixed
    beton = open_beton(path, {"mask": Mask.metadata_type})
    assert verify_structure(beton) == []
    assert beton.field_names == tuple(FIELDS)
    raw = path.read_bytes()
    for name in ("image", "array", "tensor", "doc", "text"):
        sums = beton.checksums(name)
        for k in range(60):
            start, size = int(beton.offsets(name)[k]), int(beton.lengths(name)[k])
            assert google_crc32c.value(raw[start : start + size]) == sums[k]
    assert beton.lengths("text").tolist() == [len(values[6]) for values in samples]


def test_argument_bytes_are_the_fields_own(mixed):
    beton = open_beton(mixed[0], {"mask": Mask.metadata_type})
    for described, field in zip(beton.fields, FIELDS.values(), strict=True):
        assert described.arguments == field.to_binary().tobytes()
    assert [int(field.type_id) for field in beton.fields] == [2, 1, 0, 4, 6, 5, 3, 255]


def test_reports_count_what_was_stored(mixed):
    path, _, report = mixed
    modes = File(path, RECORD).rows["f0"]["mode"]
    assert dict(report.modes) == {"raw": (modes == 1).sum(), "jpeg encoded": (modes == 0).sum()}
    assert (report.samples, report.bytes, dict(report.transcoded)) == (60, path.stat().st_size, {})
    assert report.seconds > 0
    assert "60 samples" in str(report) and "jpeg encoded" in str(report)


def test_settings_names_and_counts_stand_in_the_file(tmp_path, make_jpeg):
    path = tmp_path / "a.beton"
    field = RGBImageField(max_resolution=50, check="header")
    samples = [(make_jpeg(40, 40, orientation=6), 0), (make_jpeg(40, 60), 1), (make_jpeg(20, 20), 1)]
    writer = DatasetWriter(path, {"image": field, "label": IntField()}, class_names=["cat", "dog"])
    report = writer.from_indexed_dataset(samples)
    info = open_beton(path).section.info
    assert info["class_names"] == ["cat", "dog"]
    assert info["writer"].startswith("ffcv-gpu ")
    assert info["fields"]["label"] == {"class": "IntField", "settings": {}}
    assert RGBImageField(**info["fields"]["image"]["settings"]).write_settings() == field.write_settings()
    assert info["images"] == {
        "modes": {"jpeg pass-through": 2, "jpeg encoded again": 1},
        "transcoded": {"longer side over 50": 1},
        "rotated": 1,
        "turned": 0,
    }
    assert (report.rotated, report.turned) == (1, 0)
    assert "exif='apply'" in str(report) and "longer side over 50" in str(report)


def test_facts_of_each_image_stand_in_the_file(tmp_path, make_jpeg, make_photo):
    path = tmp_path / "a.beton"
    values = [make_jpeg(40, 40, orientation=6), make_photo(8, 8), make_jpeg(40, 60, mode="L")]
    DatasetWriter(path, {"image": RGBImageField()}, num_workers=1).from_indexed_dataset(
        [(v,) for v in values]
    )
    facts = open_beton(path).facts("image")
    checked = int(JpegFlag.DECODE_CHECKED)
    assert facts.tolist() == [(2, 0xC0, 3, 6, checked), (-1, 0, 3, 0, 0), (6, 0xC0, 1, 0, checked)]


def test_scalars_need_no_pages(tmp_path):
    path = tmp_path / "a.beton"
    DatasetWriter(path, {"a": IntField(), "b": FloatField()}).from_indexed_dataset([(1, 2.0), (3, 4.0)])
    file = File(path, ["<i8", "<f8"])
    assert file.rows.tolist() == [(1, 2.0), (3, 4.0)]
    assert len(file.table) == 0 and path.stat().st_size < 4096
    assert verify_structure(open_beton(path)) == []


def test_pages_are_whole_and_their_rest_is_zero(tmp_path):
    path = tmp_path / "a.beton"
    DatasetWriter(path, {"a": BytesField()}, MIN_PAGE_SIZE).from_indexed_dataset([(b"\xff" * 10,)])
    raw = path.read_bytes()
    assert raw[MIN_PAGE_SIZE : MIN_PAGE_SIZE + 10] == b"\xff" * 10
    assert not any(raw[MIN_PAGE_SIZE + 10 : 2 * MIN_PAGE_SIZE])
    assert File(path, [BytesField().metadata_type]).header["table"] > 2 * MIN_PAGE_SIZE


# ---- indices


class Squares:
    def __getitem__(self, index):
        assert type(index) is int
        return (index * index,)

    def __len__(self):
        return 50


def written(path, indices=None, **options):
    DatasetWriter(path, {"x": IntField()}, num_workers=1, progress=False).from_indexed_dataset(
        Squares(), indices, **options
    )
    return File(path, ["<i8"]).rows["f0"].tolist()


@pytest.mark.parametrize("make", [list, tuple, np.array, iter, lambda x: np.array(x, np.uint8)])
def test_indices_choose_and_order(tmp_path, make):
    assert written(tmp_path / "a.beton", make([7, 3, 3, 49])) == [49, 9, 9, 2401]


def test_ranges_and_slices_of_arrays(tmp_path):
    assert written(tmp_path / "a.beton", range(0, 6, 2)) == [0, 4, 16]


def test_shuffling_follows_numpys_global_generator_and_leaves_the_callers_array(tmp_path):
    indices = np.arange(50)
    expected = np.arange(50)
    np.random.seed(5)  # noqa: NPY002
    np.random.shuffle(expected)  # noqa: NPY002
    for given in (indices, indices.tolist(), None):
        np.random.seed(5)  # noqa: NPY002
        values = written(tmp_path / "a.beton", given, shuffle_indices=True)
        assert values == (expected**2).tolist()
    assert indices.tolist() == list(range(50))


@pytest.mark.parametrize("indices", [np.ones(50, bool), np.zeros((5, 5), int)])
def test_masks_are_no_indices(tmp_path, indices):
    with pytest.raises(PipelineError, match=r"np.flatnonzero\(mask\)"):
        written(tmp_path / "a.beton", indices)


@pytest.mark.parametrize(("dataset", "indices"), [([], None), (Squares(), []), (Squares(), np.arange(0))])
def test_an_empty_dataset_is_an_error_and_no_file(tmp_path, dataset, indices):
    with pytest.raises(SampleError, match="nothing to write"):
        DatasetWriter(tmp_path / "a.beton", {"x": IntField()}).from_indexed_dataset(dataset, indices)
    assert os.listdir(tmp_path) == []


def test_a_dataset_without_a_length_needs_indices(tmp_path):
    class Endless:
        def __getitem__(self, index):
            return (index,)

    writer = DatasetWriter(tmp_path / "a.beton", {"x": IntField()}, num_workers=1)
    with pytest.raises(PipelineError, match="give indices="):
        writer.from_indexed_dataset(Endless())
    assert writer.from_indexed_dataset(Endless(), range(3)).samples == 3


# ---- arguments


def test_attributes_are_ffcvs(tmp_path):
    writer = DatasetWriter(str(tmp_path / "a.beton"), {"x": IntField(), "y": RGBImageField()})
    assert writer.page_size == 4 * MIN_PAGE_SIZE == 1 << 23 and MAX_PAGE_SIZE == 1 << 32
    assert writer.num_workers == len(os.sched_getaffinity(0))
    assert writer.fname == str(tmp_path / "a.beton")
    assert list(writer.fields) == ["x", "y"]
    assert writer.metadata_type.itemsize == 24


def test_the_number_of_workers_is_checked(tmp_path):
    for wrong in ("4", 2.5, None):
        with pytest.raises(PipelineError, match="num_workers must be a whole number"):
            DatasetWriter(tmp_path / "a.beton", {"x": IntField()}, num_workers=wrong)
    assert DatasetWriter(tmp_path / "a.beton", {"x": IntField()}, num_workers=np.int64(3)).num_workers == 3


@pytest.mark.parametrize("page_size", [0, 1 << 20, 3 << 20, 1 << 32, -(1 << 23)])
def test_page_sizes_are_checked(tmp_path, page_size):
    with pytest.raises(PipelineError, match="page_size must be a power of two"):
        DatasetWriter(tmp_path / "a.beton", {"x": IntField()}, page_size)


@pytest.mark.parametrize("name", ["seventeen letters", "größe", "a\0b"])
def test_names_that_a_file_cannot_hold(tmp_path, name):
    with pytest.raises(FormatError, match="16 ASCII"):
        DatasetWriter(tmp_path / "a.beton", {name: IntField()})


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "no fields"),
        ({1: IntField()}, "a name must be a str"),
        ({"x": IntField}, r"create one: IntField\(...\)"),
        ({"x": "int"}, "expected a Field"),
        ([("x", IntField()), ("x", FloatField())], "two fields are named 'x'"),
        ([IntField(), FloatField()], r"must be a mapping, not \[.*give {'image'"),
    ],
)
def test_fields_are_checked(tmp_path, fields, says):
    with pytest.raises(PipelineError, match=says):
        DatasetWriter(tmp_path / "a.beton", fields)


def test_other_arguments_are_checked(tmp_path):
    with pytest.raises(PipelineError, match="mp_context"):
        DatasetWriter(tmp_path / "a.beton", {"x": IntField()}, mp_context="thread")
    with pytest.raises(PipelineError, match="class_names must be a list of names, not 'cat'"):
        DatasetWriter(tmp_path / "a.beton", {"x": IntField()}, class_names="cat")
    with pytest.raises(PipelineError, match=r"class_names must be a list of names, not \{1: 'dog',"):
        DatasetWriter(tmp_path / "a.beton", {"x": IntField()}, class_names={1: "dog", 0: "cat"})
    with pytest.raises(PipelineError, match="chunksize"):
        written(tmp_path / "a.beton", chunksize=0)


@pytest.mark.parametrize("make", [iter, np.array])
@pytest.mark.parametrize("shard", [None, (0, 1)])
def test_class_names_in_whatever_they_come(tmp_path, make, shard):
    """They are noted several times, and an iterator can be read once."""
    writer = DatasetWriter(
        tmp_path / "a.beton", {"x": IntField()}, class_names=make(["cat", "dog"]), progress=False
    )
    path = writer.from_indexed_dataset([(0,), (1,)], shard=shard).path
    assert open_beton(path).class_names == ("cat", "dog")


def test_settings_that_json_cannot_hold(tmp_path):
    class Odd(IntField):
        def write_settings(self):
            return {"x": object()}

    with pytest.raises(PipelineError, match="write_settings"):
        DatasetWriter(tmp_path / "a.beton", {"x": Odd()})
