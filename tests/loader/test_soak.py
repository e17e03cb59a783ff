"""Long runs: memory, threads and file descriptors stay where they were."""

import gc
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from ffcv_gpu.fields import IntField, RGBImageField
from ffcv_gpu.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.transforms import NormalizeImage, RandomHorizontalFlip, ToTensor, ToTorchImage
from ffcv_gpu.writer import DatasetWriter

pytestmark = pytest.mark.long
MIB = 1 << 20


@pytest.fixture(scope="module")
def small(tmp_path_factory, make_jpeg):
    path = tmp_path_factory.mktemp("soak") / "small.beton"
    photos = [make_jpeg(180 + 5 * (i % 9), 240 - 7 * (i % 5), seed=i) for i in range(96)]
    samples = [(photo, i) for i, photo in enumerate(photos)]
    fields = {"image": RGBImageField(), "label": IntField()}
    DatasetWriter(path, fields, num_workers=1, progress=False).from_indexed_dataset(samples)
    return path


def loader(path, **options):
    norm = NormalizeImage([120.0], [60.0], np.float32)
    image = [
        RandomResizedCropRGBImageDecoder((128, 128)),
        RandomHorizontalFlip(),
        ToTensor(),
        ToTorchImage(),
        norm,
    ]
    pipelines = {"image": image, "label": [IntDecoder(), ToTensor()]}
    return Loader(path, 16, num_workers=2, order=OrderOption.RANDOM, seed=0, pipelines=pipelines, **options)


def resident():
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def descriptors():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("os_cache", [True, False])
def test_memory_is_flat_over_fifty_epochs(small, os_cache):
    made = loader(small, os_cache=os_cache)
    for _ in range(10):
        for _batch in made:
            pass
    before = resident()
    for _ in range(50):
        for _batch in made:
            pass
    assert resident() - before < 16 * MIB


def test_a_thousand_early_breaks_leave_nothing(small):
    made = loader(small)
    next(iter(made))
    threads, files, memory = threading.active_count(), descriptors(), None
    for number in range(1000):
        for _batch in made:
            break
        if number == 300:  # until the allocator's arenas of all threads have got their share
            memory = resident()
    gc.collect()
    assert threading.active_count() <= threads and descriptors() <= files
    # It rises and falls by 30 MiB, and 2,600 breaks leave it there; one batch kept by each would be 2,000.
    assert resident() - memory < 64 * MIB


def test_two_hundred_loaders_leave_nothing(small):
    for _ in range(100):  # until the allocator's arenas of all threads have got their share
        next(iter(loader(small, os_cache=False)))
    gc.collect()
    threads, files, memory = threading.active_count(), descriptors(), resident()
    for _ in range(200):
        next(iter(loader(small, os_cache=False)))
    gc.collect()
    assert threading.active_count() <= threads and descriptors() <= files
    assert resident() - memory < 128 * MIB  # one batch kept by each loader would be 600
