"""``on_error="skip"``: bad samples are left out and listed, and nothing else changes."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from ffcv_gpu.errors import PipelineError, SampleError, WriteError
from ffcv_gpu.fields import BytesField, Field, IntField, RGBImageField
from ffcv_gpu.fields.base import ARG_TYPE
from ffcv_gpu.format import MIN_PAGE_SIZE, open_beton, verify_structure
from ffcv_gpu.writer import DatasetWriter

FIELDS = {"image": RGBImageField(), "label": IntField(), "text": BytesField()}
BAD = {
    4: (b"\xff\xd8\xff\xe0garbage", 4, b"x"),  # the first field fails
    5: (None, 5, b"x"),
    17: ("pixels", 17, "no bytes"),  # the last field fails, after payloads of the others
    30: ("pixels", 30, b"a" * (MIN_PAGE_SIZE + 1)),  # larger than a page
    31: KeyError("lost"),
}
SAYS = {
    4: "field 'image': unreadable image",
    5: "field 'image': ",
    17: "field 'text': ",
    30: "field 'text': the sample takes ",
    31: "the dataset raised KeyError: 'lost'",
}


class Mixed:
    def __init__(self, make_photo, make_jpeg, bad=BAD, length=40):
        self.photo, self.jpeg, self.bad, self.length = make_photo(30, 40), make_jpeg(25, 35), bad, length

    def __len__(self):
        return self.length

    def __getitem__(self, k):
        value = self.bad.get(k, (self.jpeg if k % 3 else "pixels", k, bytes([k]) * (k * 3000)))
        if isinstance(value, Exception):
            raise value
        return tuple(self.photo if isinstance(item, str) and item == "pixels" else item for item in value)


@pytest.fixture
def dataset(make_photo, make_jpeg):
    return Mixed(make_photo, make_jpeg)


def write(path, dataset, workers, **options):
    more = {name: options.pop(name) for name in ("on_error", "class_names") if name in options}
    writer = DatasetWriter(
        path, FIELDS, MIN_PAGE_SIZE, workers, progress=False, **{"on_error": "skip", **more}
    )
    return writer.from_indexed_dataset(dataset, chunksize=7, **options)


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_samples_are_named_in_report_and_file_and_the_others_are_there(tmp_path, dataset, workers):
    path = tmp_path / "a.beton"
    report = write(path, dataset, workers, source_ids=lambda k: f"id {k}")
    good = [k for k in range(40) if k not in BAD]
    beton = open_beton(path)
    assert report.samples == beton.num_samples == len(good)
    assert beton.column("label").tolist() == good
    assert list(beton.source_ids) == [f"id {k}" for k in good]
    for row, k in enumerate(good):
        offset, length = int(beton.offsets("text")[row]), int(beton.lengths("text")[row])
        assert beton.data[offset : offset + length].tobytes() == bytes([k]) * (k * 3000)
    assert verify_structure(beton) == []
    assert report.skipped == beton.skipped
    assert [skip.position for skip in report.skipped] == [skip.key for skip in report.skipped] == list(BAD)
    for skip in report.skipped:
        assert f"id {skip.key}: {SAYS[skip.position]}" in skip.reason
    assert report.modes == {"raw": 13, "jpeg pass-through": 22}
    assert str(report).count("  skipped ") == 5
    # The rows of FACT belong to the right samples.
    assert [int(row) for row in beton.facts("image")["encoding"]] == [0xC0 if k % 3 else 0 for k in good]


def test_the_file_does_not_depend_on_the_workers(tmp_path, dataset):
    files = []
    for workers in (1, 2, 3):
        write(tmp_path / "a.beton", dataset, workers)
        files.append((tmp_path / "a.beton").read_bytes())
    assert files[0] == files[1] == files[2]


def test_without_bad_samples_it_is_the_ordinary_file(tmp_path, make_photo, make_jpeg):
    good = Mixed(make_photo, make_jpeg, bad={})
    write(tmp_path / "a.beton", good, 1)
    write(tmp_path / "b.beton", good, 1, on_error="raise")
    assert (tmp_path / "a.beton").read_bytes() == (tmp_path / "b.beton").read_bytes()


def test_keys_of_the_dataset_are_noted_beside_positions(tmp_path, dataset):
    report = write(tmp_path / "a.beton", dataset, 1, indices=[31, 2, 5])
    assert [skip[:2] for skip in report.skipped] == [(0, 31), (2, 5)]
    assert open_beton(tmp_path / "a.beton").column("label").tolist() == [2]


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_but_bad_samples_is_an_error(tmp_path, workers):
    with pytest.raises(
        SampleError, match=r"all 40 samples were skipped; the first, dataset\[0\]: the dataset"
    ):
        write(tmp_path / "a.beton", [7] * 40, workers)
    assert os.listdir(tmp_path) == []


class Wide(Field):
    """A record of 30 kB, so that few samples need several pages of metadata."""

    metadata_type = np.dtype([("fill", "u1", 30_000)])
    from_binary = staticmethod(lambda binary: Wide())

    def to_binary(self):
        return np.zeros(1, ARG_TYPE)[0]

    def encode(self, destination, value, malloc):
        pass


def test_many_skipped_samples_make_the_metadata_shorter_by_pages(tmp_path):
    """Pages stay behind the space for all records; FFCV's rules (absolute pointers) still hold."""
    samples = [(k, b"xy", 0) if k % 50 == 0 else (k, "bad", 0) for k in range(100)]
    fields = {"a": IntField(), "b": BytesField(), "wide": Wide()}
    path = tmp_path / "a.beton"
    report = DatasetWriter(path, fields, MIN_PAGE_SIZE, 1, on_error="skip").from_indexed_dataset(samples)
    beton = open_beton(path, {"wide": Wide.metadata_type})
    assert report.samples == 2 and beton.layout.data_offset == MIN_PAGE_SIZE
    assert int(beton.offsets("b").min()) == 2 * MIN_PAGE_SIZE
    assert beton.column("a").tolist() == [0, 50]
    assert verify_structure(beton) == []
    assert len(beton.skipped) == 98 and "... 98 skipped in all" in str(report)


class Silent(Exception):
    """As of a library that fails to put its own message together."""

    def __str__(self):
        raise TypeError("not enough arguments for format string")


@pytest.mark.parametrize("workers", [1, 2])
def test_an_exception_without_a_readable_message(tmp_path, workers):
    class Fails(list):
        def __getitem__(self, k):
            if k == 7:
                raise Silent
            return (k,)

    writer = DatasetWriter(tmp_path / "a", {"x": IntField()}, num_workers=workers, on_error="skip")
    (skip,) = writer.from_indexed_dataset(Fails([0] * 20), chunksize=5).skipped
    assert skip.position == 7
    assert skip.reason.startswith("the dataset raised Silent: its message raised TypeError; fix it")


def test_what_stops_a_process_is_not_skipped(tmp_path):
    class Dies:
        def __len__(self):
            return 30

        def __getitem__(self, k):
            if k == 13:
                os.kill(os.getpid(), signal.SIGKILL)
            return (np.zeros((4, 4, 3), np.uint8), k, b"")

    with pytest.raises(WriteError, match="SIGKILL while at sample 13"):
        write(tmp_path / "a.beton", Dies(), 2)
    with pytest.raises(PipelineError, match="on_error='ignore': 'raise' or 'skip'"):
        write(tmp_path / "a.beton", Dies(), 2, on_error="ignore")


@pytest.mark.parametrize("named", [[7, 8, 9], ["a", "b"], "abc", None, {0: "a"}, lambda key: "a"])
def test_another_meaning_of_source_ids_is_left_alone(tmp_path, named):
    """Of the dataset's attribute, that is: only a text per sample is taken from it."""

    class Numbers(list):
        source_ids = named

    writer = DatasetWriter(tmp_path / "a.beton", {"x": IntField()}, MIN_PAGE_SIZE, 1, progress=False)
    writer.from_indexed_dataset(Numbers([(1,), (2,), (3,)]))
    assert open_beton(tmp_path / "a.beton").source_ids is None


@pytest.mark.parametrize(
    ("source_ids", "says"),
    [
        (["a", "b"], r"no entry for dataset\[2\]"),
        ({0: "a"}, r"no entry for dataset\[1\]"),
        (lambda k: k, "is not a str"),
        (["a", "b", "\udce9", "d", "e"], r"'\\udce9' for dataset\[2\] is not UTF-8"),
    ],
)
def test_source_ids_that_do_not_fit_are_refused_before_anything_is_written(tmp_path, source_ids, says):
    writer = DatasetWriter(tmp_path / "a.beton", {"a": IntField()})
    with pytest.raises(PipelineError, match=says):
        writer.from_indexed_dataset([(k,) for k in range(5)], source_ids=source_ids)
    assert os.listdir(tmp_path) == []
