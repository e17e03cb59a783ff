"""Reading payloads by pointer, as FFCV's tests and scripts do; FFCV's crop functions; memcpy."""

import numpy as np
import pytest

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields import BytesField, IntField
from ffcv_gpu.fields.rgb_image import get_center_crop, get_random_crop
from ffcv_gpu.libffcv import memcpy
from ffcv_gpu.memory_managers import OSCacheManager, ProcessCacheManager
from ffcv_gpu.pipeline.compiler import Compiler
from ffcv_gpu.reader import Reader
from ffcv_gpu.writer import DatasetWriter

N = 50


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("managers") / "bytes.beton"
    samples = [(i, bytes([i]) * (20_000 + i)) for i in range(N)]
    fields = {"index": IntField(), "value": BytesField()}
    DatasetWriter(path, fields, 1 << 21, 1, progress=False).from_indexed_dataset(samples)
    return path


def test_payloads_are_read_by_pointer_inside_a_context(path):
    manager = OSCacheManager(Reader(path))
    read = manager.compile_reader()
    table = manager.reader.alloc_table
    with manager.schedule_epoch([[0, 1], [2]]) as context:
        context.start_batch(0)
        for entry in table[[0, 7, N - 1]]:
            payload = read(entry["ptr"], context.state)
            assert payload.tobytes() == bytes([entry["sample_id"]]) * (20_000 + entry["sample_id"])
        with pytest.raises(ValueError, match="no payload of the file begins at this pointer"):
            read(table["ptr"][0] + 1, context.state)
    assert len(manager.state_type) == 3


def test_the_tables_of_a_manager(path):
    manager = OSCacheManager(Reader(path))
    assert (np.diff(manager.ptrs) > 0).all() and len(manager.ptr_to_size) == N
    page_size = manager.reader.page_size
    for sample in (0, N - 1):
        entry = manager.reader.alloc_table[manager.reader.alloc_table["sample_id"] == sample][0]
        assert manager.ptr_to_size[int(entry["ptr"])] == 20_000 + sample
        assert manager.sample_to_pages[sample] == {int(entry["ptr"]) // page_size}
        assert sample in manager.page_to_samples[int(entry["ptr"]) // page_size]


def payload_of(manager, read, context, sample):
    (place,) = np.flatnonzero(manager.reader.alloc_table["sample_id"] == sample)
    return read(manager.reader.alloc_table["ptr"][place], context.state).tobytes()


@pytest.mark.parametrize("shuffled", [False, True])
def test_the_page_cache_holds_the_pages_of_the_running_batch(tmp_path, shuffled):
    path = tmp_path / "pages.beton"
    samples = [(i, bytes([i]) * 400_000) for i in range(23)]  # five to a page of 2 MiB
    fields = {"index": IntField(), "value": BytesField()}
    DatasetWriter(path, fields, 1 << 21, 1, progress=False).from_indexed_dataset(samples)
    manager = ProcessCacheManager(Reader(path))
    order = np.random.default_rng(0).permutation(23) if shuffled else np.arange(23)
    batches = [order[k : k + 4] for k in range(0, 23, 4)]
    read = manager.compile_reader()
    with manager.schedule_epoch(batches) as context:
        for number, batch in enumerate(batches):
            context.start_batch(number)
            for sample in batch:
                assert payload_of(manager, read, context, sample) == bytes([sample]) * 400_000
        # as many slots as one moment needs, not as many as there are pages
        pages = len(manager.page_to_samples)
        assert pages == 5 and (context.state[0].shape[0] < pages) == (not shuffled)
    with pytest.raises(PipelineError, match="inside the with block"):
        context.start_batch(0)
    assert len(manager.state_type) == 4


def test_the_page_cache_tells_a_page_that_is_not_there_from_one_that_is(path):
    manager = ProcessCacheManager(Reader(path))
    read, (first, *_), last = manager.compile_reader(), manager.ptrs, manager.ptrs[-1]
    with manager.schedule_epoch([[], [0]]) as context:
        with pytest.raises(PipelineError, match=r"start_batch\(1\).*the next one is 0"):
            context.start_batch(1)
        context.start_batch(0)
        with pytest.raises(ValueError, match="the page of this pointer is not in memory"):
            read(last, context.state)
        with pytest.raises(ValueError, match="no payload of the file begins at this pointer"):
            read(first + 1, context.state)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.float64, np.float32])
@pytest.mark.parametrize("compiled", [True, False])
def test_memcpy_copies_bytes(dtype, compiled):
    data = np.random.default_rng(0).uniform(0, 255, (100, 99)).astype(dtype)
    target = np.zeros((100, 99), dtype)
    (Compiler.compile(memcpy) if compiled else memcpy)(data, target)
    assert np.array_equal(data, target)


@pytest.mark.parametrize("compiled", [True, False])
def test_crops_lie_inside_and_have_the_area_and_aspect_asked_for(compiled):
    crop = Compiler.compile(get_random_crop) if compiled else get_random_crop
    scale, ratio = np.array([0.1, 0.5]), np.array([0.75, 4 / 3])
    crops = np.array([crop(np.uint32(300), np.uint32(400), scale, ratio) for _ in range(500)])
    i, j, h, w = crops.T
    assert (i >= 0).all() and (j >= 0).all() and (i + h <= 300).all() and (j + w <= 400).all()
    area, aspect = h * w / 120_000, w / h
    assert area.min() > 0.095 and area.max() < 0.505 and aspect.min() > 0.74 and aspect.max() < 1.35
    assert area.mean() == pytest.approx(0.3, abs=0.02) and len(set(aspect)) > 100
    assert crop(100, 10, np.array([0.5, 1.0]), np.array([1.0, 1.0])) == (45, 0, 10, 10)
    centre = Compiler.compile(get_center_crop) if compiled else get_center_crop
    assert centre(np.uint32(100), np.uint32(61), 0, 0.5) == (35, 15, 30, 30)
