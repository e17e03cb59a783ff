"""`DatasetWriter.from_iterable`: samples whose number nobody knows in advance."""

from __future__ import annotations

import os
from itertools import pairwise

import numpy as np
import pytest

from ffcv_gpu.convert.beton import BetonDataset
from ffcv_gpu.doctor import Target
from ffcv_gpu.errors import PipelineError, SampleError, WriteError
from ffcv_gpu.fields import FloatField, IntField, NDArrayField, RGBImageField
from ffcv_gpu.format import MIN_PAGE_SIZE, open_beton
from ffcv_gpu.writer import DatasetWriter

FIELDS = {"array": NDArrayField(np.dtype("<f4"), (3,)), "number": IntField()}


def written(path, *iterables, workers=1, fields=FIELDS, **more):
    writer = DatasetWriter(path, fields, MIN_PAGE_SIZE, workers, progress=False, **more)
    return writer.from_iterable(*iterables)


def counted(first, last):
    for number in range(first, last):
        yield np.full(3, number / 2, np.float32), number


@pytest.mark.parametrize("workers", [1, 3])
def test_a_generator(tmp_path, workers):
    """More samples than one part of the file, and more than the table has rows at first."""
    report = written(tmp_path / "a.beton", counted(0, 5000), workers=workers)
    assert report.samples == 5000
    dataset = BetonDataset(tmp_path / "a.beton")
    assert len(dataset) == 5000 and open_beton(tmp_path / "a.beton").column("number").tolist() == [
        *range(5000)
    ]
    for number in (0, 1, 2500, 4999):
        assert dataset[number][0].tolist() == [number / 2] * 3


def test_several_in_processes_are_the_file_of_one(tmp_path):
    """In their order, whatever their lengths; two may be empty."""
    bounds = [0, 1700, 1700, 1703, 4000, 4000]
    contents = []
    for workers in (1, 2, 4):
        parts = [counted(first, last) for first, last in pairwise(bounds)]
        written(tmp_path / f"{workers}.beton", *parts, workers=workers)
        contents.append((tmp_path / f"{workers}.beton").read_bytes())
    assert contents[0] == contents[1] == contents[2]
    assert open_beton(tmp_path / "1.beton").column("number").tolist() == [*range(4000)]


def test_each_is_read_in_a_process_of_its_own(tmp_path):
    def processes():
        for _ in range(3):
            yield (os.getpid(),)

    iterables = processes(), processes(), processes()
    written(tmp_path / "a.beton", *iterables, workers=3, fields={"process": IntField()})
    found = open_beton(tmp_path / "a.beton").column("process").tolist()
    assert len(set(found)) == 3 and os.getpid() not in found
    assert [len(set(found[k : k + 3])) for k in (0, 3, 6)] == [1, 1, 1]


def test_mappings_and_lists(tmp_path):
    samples = [{"b": 0.5, "more": None, "a": 3}, {"a": 4, "b": 1.5}]
    written(tmp_path / "a.beton", samples, fields={"a": IntField(), "b": FloatField()})
    assert [*BetonDataset(tmp_path / "a.beton")] == [(3, 0.5), (4, 1.5)]


def broken():
    yield from counted(0, 5)
    raise OSError("the camera is gone")


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_name_iterable_and_sample(tmp_path, workers):
    path = tmp_path / "a.beton"
    path.write_bytes(b"as before")
    with pytest.raises(SampleError, match=r"iterable 1, sample number 5: reading raised OSError\('the c"):
        written(path, counted(0, 3), broken(), workers=workers)
    with pytest.raises(SampleError, match=r"iterable 1, sample 2, field 'number'.*1.5"):
        written(path, counted(0, 3), [(np.zeros(3, np.float32), k) for k in (0, 1, 1.5)], workers=workers)
    assert path.read_bytes() == b"as before" and [*tmp_path.iterdir()] == [path]


def test_skipped_samples_are_listed(tmp_path):
    bad = [*counted(0, 2), (np.zeros(4, np.float32), 2), *counted(3, 5)]
    report = written(tmp_path / "a.beton", counted(7, 9), bad, on_error="skip")
    assert report.samples == 6 and [(skip.position, skip.key) for skip in report.skipped] == [(4, 2)]
    assert report.skipped[0].reason.startswith("iterable 1, field 'array': ")
    assert open_beton(tmp_path / "a.beton").column("number").tolist() == [7, 8, 0, 1, 3, 4]


def test_a_worker_that_dies_is_reported(tmp_path):
    def deadly():
        yield from counted(0, 3)
        os._exit(3)

    with pytest.raises(WriteError, match=r"exited with status 3 while at iterable 1, sample number 3"):
        written(tmp_path / "a.beton", counted(0, 3), deadly(), workers=2)


class Photos:
    """Starts anew each time it is iterated."""

    def __init__(self, photos):
        self._photos = photos

    def __iter__(self):
        return iter(self._photos)


def test_a_target_sees_samples_first(tmp_path, make_photo):
    photos = [(make_photo(60, 80, seed=k),) for k in range(20)]
    fields = {"image": RGBImageField("auto", target=Target(1, 1, decode_ms=0.1, other_ms=0.1))}
    report = written(tmp_path / "a.beton", Photos(photos), fields=fields)
    assert report.samples == 20
    with pytest.raises(PipelineError, match="argument 0 can be read only once, but a target"):
        written(tmp_path / "b.beton", iter(photos), fields=fields)


def test_what_is_refused(tmp_path):
    path = tmp_path / "a.beton"
    for given, message in (
        ((), "give at least one iterable"),
        ((counted(0, 2), 5), "argument 1 is not iterable, but of type int"),
        ([counted(0, 2)] * 2, "argument 1 is an iterator that was given before"),
    ):
        with pytest.raises(PipelineError, match=message):
            written(path, *given)
    with pytest.raises(PipelineError, match="only from_indexed_dataset and append can resume"):
        written(path, counted(0, 2), resume=True)
    with pytest.raises(SampleError, match="no samples in the iterables"):
        written(path, counted(0, 0), counted(5, 5))
    assert not [*tmp_path.iterdir()]
