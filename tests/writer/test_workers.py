"""The same input gives the same file with any number and kind of workers, and nothing is left behind."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import re
import time

import numpy as np
import pytest

from ffcv_gpu.errors import PipelineError, WriteError
from ffcv_gpu.fields import BytesField, IntField, RGBImageField
from ffcv_gpu.format import MIN_PAGE_SIZE, open_beton, verify_structure
from ffcv_gpu.jpeg import rewrite
from ffcv_gpu.kernels.shrink_cpu import shrink_rows
from ffcv_gpu.writer import DatasetWriter
from tests.small_file import open_files


class Photos:
    """JPEG bytes, pixels, and byte strings of very different sizes; some samples are slow."""

    def __init__(self, jpegs, photos):
        self.jpegs, self.photos = jpegs, photos

    def __len__(self):
        return 90

    def __getitem__(self, k):
        if k % 17 == 3:
            time.sleep(0.02)
        image = self.jpegs[k % len(self.jpegs)] if k % 3 else self.photos[k % len(self.photos)]
        return image, k, bytes([k]) * (k % 5 * 40_000)


FIELDS = {"image": RGBImageField("proportion", 100), "label": IntField(), "text": BytesField()}


@pytest.fixture(scope="module")
def photos(make_jpeg, make_photo):
    jpegs = [make_jpeg(90 + 9 * k, 120, k, progressive=k == 3) for k in range(5)]
    return Photos(jpegs, [make_photo(200, 300 + k, k) for k in range(4)])


@pytest.fixture(scope="module")
def reference(photos, tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "a.beton"
    DatasetWriter(path, FIELDS, MIN_PAGE_SIZE, 1, progress=False).from_indexed_dataset(photos)
    assert verify_structure(open_beton(path)) == []
    return path.read_bytes()


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("chunksize", [1, 7, 100])
def test_the_file_does_not_depend_on_the_workers(tmp_path, photos, reference, workers, chunksize):
    path = tmp_path / "b.beton"
    for progress in (False, lambda done, total: None):
        writer = DatasetWriter(path, FIELDS, MIN_PAGE_SIZE, workers, progress=progress)
        writer.from_indexed_dataset(photos, chunksize=chunksize)
        assert path.read_bytes() == reference


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_other_ways_to_start_processes(tmp_path, photos, reference, method):
    path = tmp_path / "b.beton"
    context = multiprocessing.get_context(method)
    # Datasets must be importable in newly started processes; this module is not.
    dataset = list(map(photos.__getitem__, range(len(photos))))
    DatasetWriter(path, FIELDS, MIN_PAGE_SIZE, 2, progress=False, mp_context=context).from_indexed_dataset(
        dataset, chunksize=10
    )
    assert path.read_bytes() == reference


@pytest.mark.parametrize(
    ("workers", "says"),
    [(-1, "written"), (2, "daemonic.* may not start the 2 writer processes: give num")],
)
def test_a_daemonic_process_starts_no_others(tmp_path, photos, reference, workers, says):
    """As a worker of `multiprocessing.Pool`, which may write a shard each."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def write():
        writer = DatasetWriter(tmp_path / "b.beton", FIELDS, MIN_PAGE_SIZE, workers, progress=False)
        try:
            writer.from_indexed_dataset(photos, chunksize=7)
            theirs.send("written")
        except PipelineError as error:
            theirs.send(str(error))

    process = context.Process(target=write, daemon=True)
    process.start()
    theirs.close()
    assert ours.poll(60) and re.search(says, ours.recv())
    process.join()
    assert os.listdir(tmp_path) == ["b.beton"] * (workers < 1)
    assert workers > 1 or (tmp_path / "b.beton").read_bytes() == reference


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_what_cannot_be_pickled_needs_fork(tmp_path, method):
    class Local(list):
        pass

    writer = DatasetWriter(tmp_path / "a.beton", {"x": IntField()}, num_workers=2, mp_context=method)
    with pytest.raises(
        PipelineError, match=rf"mp_context='{method}' needs a dataset .* pickled .*Local.*; 'fork' does not"
    ):
        writer.from_indexed_dataset(Local([(1,)] * 300))
    assert os.listdir(tmp_path) == []
    before = open_files()
    for _ in range(3):
        with contextlib.suppress(PipelineError):
            writer.from_indexed_dataset(Local([(1,)] * 300))
    assert open_files() <= before


class Unimportable(list):
    """As a class of a notebook is for a process that was not forked from it."""

    def __reduce__(self):
        return os._exit, (1,)


def test_what_a_new_process_cannot_import(tmp_path):
    writer = DatasetWriter(tmp_path / "a.beton", {"x": IntField()}, num_workers=2, mp_context="spawn")
    with pytest.raises(WriteError, match=r"status 1 before its first sample; .* mp_context='spawn'"):
        writer.from_indexed_dataset(Unimportable([(1,)] * 300))


@pytest.mark.parametrize("workers", [1, 2])
def test_the_file_does_not_depend_on_what_is_compiled(tmp_path, photos, reference, workers, monkeypatch):
    """OpenCV shrank the reference; these processes use the compiled kernel, and compile nothing."""
    monkeypatch.setattr(rewrite, "_compiled", None)
    rewrite.load_compiled_resizer()
    used = multiprocessing.Value("i", 0)

    def counted(*arguments, compiled=rewrite._compiled):
        before = len(shrink_rows.signatures)
        result = compiled(*arguments)
        with used.get_lock():
            used.value += 1 if len(shrink_rows.signatures) == before else 1_000_000
        return result

    monkeypatch.setattr(rewrite, "_compiled", counted)
    path = tmp_path / "b.beton"
    DatasetWriter(path, FIELDS, MIN_PAGE_SIZE, workers, progress=False).from_indexed_dataset(
        photos, chunksize=9
    )
    assert path.read_bytes() == reference
    assert 30 < used.value <= 90


@pytest.mark.parametrize(
    ("workers", "method", "expected"), [(1, "fork", [6]), (2, "fork", [3]), (2, "spawn", [])]
)
def test_fields_hear_how_many_samples_a_process_will_have(tmp_path, workers, method, expected, monkeypatch):
    told = []
    monkeypatch.setattr(IntField, "expect", lambda self, samples: told.append(samples))
    writer = DatasetWriter(
        tmp_path / "b.beton", {"x": IntField()}, num_workers=workers, progress=False, mp_context=method
    )
    writer.from_indexed_dataset([(k,) for k in range(6)], chunksize=1)
    assert told == expected


def test_samples_larger_than_a_part(tmp_path):
    samples = [(np.full((1000, 2000 + k, 3), k, np.uint8),) for k in range(5)]
    files = []
    for workers in (1, 2):
        path = tmp_path / f"{workers}.beton"
        writer = DatasetWriter(path, {"image": RGBImageField()}, 1 << 23, workers)
        assert writer.from_indexed_dataset(samples, chunksize=3).bytes > 5 << 23
        files.append(path.read_bytes())
        beton = open_beton(path)
        for k, offset in enumerate(beton.offsets("image")):
            assert files[-1][offset : offset + 3000 * (2000 + k)] == bytes([k]) * (3000 * (2000 + k))
    assert files[0] == files[1]


def test_the_generator_of_numpy_does_not_decide_the_modes(tmp_path, photos, reference):
    path = tmp_path / "b.beton"
    np.random.seed(123)  # noqa: NPY002
    DatasetWriter(path, FIELDS, MIN_PAGE_SIZE, 2, progress=False).from_indexed_dataset(photos)
    assert path.read_bytes() == reference


class OnTheGpu:
    """In a cycle, like a tensor in its graph: only the garbage collector drops it, and only here it may."""

    def __init__(self):
        self.home, self.me = os.getpid(), self

    def __del__(self):
        if os.getpid() != self.home:
            os.abort()


class Collecting:
    def __len__(self):
        return 8

    def __getitem__(self, k):
        gc.collect()
        return (k,)


def test_a_worker_does_not_collect_what_the_parent_left(tmp_path):
    """A tensor on the parent's GPU ended it by SIGABRT: CUDA does not survive a fork."""
    gc.collect()
    gc.disable()
    try:
        OnTheGpu()
        writer = DatasetWriter(tmp_path / "a.beton", {"label": IntField()}, num_workers=2, progress=False)
        writer.from_indexed_dataset(Collecting(), chunksize=1)
    finally:
        gc.enable()
        gc.collect()


def test_nor_before_it_begins(tmp_path, monkeypatch):
    """Python itself makes objects in the new process, and may collect then."""
    real = os.fork

    def fork():
        OnTheGpu()
        child = real()
        if not child:
            [[] for _ in range(100_000)]
        return child

    monkeypatch.setattr(os, "fork", fork)
    writer = DatasetWriter(tmp_path / "a.beton", {"label": IntField()}, num_workers=2, progress=False)
    writer.from_indexed_dataset(Collecting(), chunksize=1)
    assert gc.isenabled()
