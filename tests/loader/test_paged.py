"""Loading through the page cache (``os_cache=False``): the same batches in bounded memory, and faults."""

import errno
import gc
import os
import threading
import weakref

import numpy as np
import pytest
import torch

from ffcv_gpu.errors import PipelineError, ReadError
from ffcv_gpu.fields import BytesField, IntField, NDArrayField, RGBImageField
from ffcv_gpu.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv_gpu.format import open_beton
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.readers.paged import storage
from ffcv_gpu.transforms import NormalizeImage, RandomHorizontalFlip, ToTensor, ToTorchImage
from ffcv_gpu.writer import DatasetWriter

N, MIB = 90, 1 << 20
PAGE_GB = 2 * MIB / 1e9
REAL = os.preadv
# none, one page, a few, all
SIZES = [0, PAGE_GB, 3 * PAGE_GB, 6 * PAGE_GB, 1]


class Samples:
    """JPEGs and raw images, an array of a third of a MiB, a byte string that is empty now and then."""

    def __init__(self, make_jpeg):
        self._jpegs = [make_jpeg(90 + i, 120, seed=i) for i in range(5)]

    def __len__(self):
        return N

    def __getitem__(self, i):
        rng = np.random.default_rng(i)
        pixels = rng.integers(0, 256, (60 + i % 7, 70, 3), dtype=np.uint8)
        image = self._jpegs[i // 3 % 5] if i % 3 else pixels
        array = rng.integers(0, 1000, (340, 256)).astype(np.int32)
        return image, i, array, np.full(i % 4 * 100, i, np.uint8)


@pytest.fixture(scope="module")
def path(tmp_path_factory, make_jpeg):
    path = tmp_path_factory.mktemp("paged") / "pages.beton"
    fields = {
        "image": RGBImageField(),
        "label": IntField(),
        "array": NDArrayField(np.dtype("int32"), (340, 256)),
        "text": BytesField(),
    }
    writer = DatasetWriter(path, fields, num_workers=1, page_size=2 * MIB, progress=False)
    writer.from_indexed_dataset(Samples(make_jpeg))
    assert np.unique(open_beton(path).sample_pages()).size > 12
    return path


def loader(path, batch_size=7, **options):
    image = [RandomResizedCropRGBImageDecoder((32, 32)), RandomHorizontalFlip(), ToTensor(), ToTorchImage(),
             NormalizeImage([120.0], [60.0], np.float32)]  # fmt: skip
    settings = {"num_workers": 3, "seed": 5, "drop_last": False, "pipelines": {"image": image}, **options}
    return Loader(path, batch_size, **settings)


def same(got, expected):
    assert len(got) == len(expected) > 0
    for one, other in zip(got, expected, strict=True):
        for a, b in zip(one, other, strict=True):
            assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))


@pytest.mark.parametrize("cache_gb", SIZES)
@pytest.mark.parametrize("order", OrderOption)
def test_batches_equal_those_of_the_mapped_file(path, order, cache_gb):
    for batch_size in (4, 64):
        paged = loader(path, batch_size, order=order, os_cache=False, cache_gb=cache_gb)
        mapped = loader(path, batch_size, order=order)
        for _ in range(2):
            same(list(paged), list(mapped))


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_share_a_file(path, rank, monkeypatch):
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "2")
    options = {"distributed": True, "order": OrderOption.QUASI_RANDOM}
    paged = loader(path, os_cache=False, cache_gb=6 * PAGE_GB, **options)
    assert not paged.dataset.reader.file.direct  # what one reads, the other finds in the page cache
    same(list(paged), list(loader(path, **options)))


def test_rows_fields_and_users_orders(path):
    """Some rows only, twice, and one of the fields that lie in pages."""
    rows = [*range(80, 20, -1), *range(40, 80)]
    options = {"indices": rows, "pipelines": {"image": None, "text": None, "label": [IntDecoder()]}}
    same(list(loader(path, os_cache=False, cache_gb=2 * PAGE_GB, **options)), list(loader(path, **options)))


def test_epochs_side_by_side(path):
    paged, mapped = (loader(path, order=OrderOption.RANDOM, **more) for more in (SMALL, {}))
    got = list(zip(paged, paged, strict=True))
    expected = list(zip(mapped, mapped, strict=True))
    for side in (0, 1):
        same([pair[side] for pair in got], [pair[side] for pair in expected])


SMALL = {"os_cache": False, "cache_gb": 3 * PAGE_GB}


def test_memory_is_bounded_and_gone_after_the_epoch(path, monkeypatch):
    sizes, arenas, real = [], weakref.WeakSet(), storage.Arena.__init__

    def counted(self, count, size):
        sizes.append(count * size)
        arenas.add(self)
        real(self, count, size)

    monkeypatch.setattr(storage.Arena, "__init__", counted)
    paged = loader(path, order=OrderOption.QUASI_RANDOM, **SMALL)
    for _ in range(5):
        for _batch in paged:
            assert len(arenas) <= 1
        assert not arenas
    for _batch in paged:
        break
    assert not any(arena.memory.any() for arena in arenas)  # what a traceback still holds has been given back
    gc.collect()
    assert not arenas
    assert sizes == [6 * MIB] * 6


def test_pages_are_read_once(path, monkeypatch):
    """With room for all pages that are open, an epoch reads each byte once, and at page size."""
    sizes = []

    def counted(file, views, at):
        sizes.append(len(views[0]))
        return REAL(file, views, at)

    paged = loader(path, order=OrderOption.RANDOM, os_cache=False, cache_gb=1)
    monkeypatch.setattr(os, "preadv", counted)
    for _batch in paged:
        pass
    assert len(sizes) == np.unique(paged.dataset.beton.sample_pages()).size
    assert sum(sizes) <= os.path.getsize(path)


def reader_threads():
    return [thread.name for thread in threading.enumerate() if thread.name == "ffcv_gpu-reader"]


def test_threads_end_with_the_epoch_a_break_and_a_close(path):
    gc.collect()
    paged = loader(path, **SMALL)
    files = set(os.listdir("/proc/self/fd"))
    for _ in range(5):
        for _batch in paged:
            assert len(list(paged)) > 1  # a whole epoch inside another
            break
        gc.collect()
        assert reader_threads() == []
    epoch = iter(paged)
    next(epoch)
    paged.close()
    assert reader_threads() == [] and files.issuperset(os.listdir("/proc/self/fd"))
    assert len(list(paged)) == len(paged)


def test_a_failing_disk_reaches_the_loop_and_the_next_epoch_is_whole(path, monkeypatch):
    paged = loader(path, order=OrderOption.QUASI_RANDOM, **SMALL)
    expected = list(loader(path, order=OrderOption.QUASI_RANDOM))
    where = int(paged.dataset.beton.offsets("array")[50])

    def broken(file, views, at):
        if at <= where < at + len(views[0]):
            raise OSError(errno.EIO, "Input/output error")
        return REAL(file, views, at)

    with monkeypatch.context() as patched:
        patched.setattr(os, "preadv", broken)
        with pytest.raises(ReadError, match=rf"{path}: cannot read \d+ bytes at {where}: .*Input/output"):
            list(paged)
    assert reader_threads() == []
    paged.next_epoch = 0
    same(list(paged), expected)


def test_a_flipped_byte_in_a_page_is_noticed(path, tmp_path):
    damaged = tmp_path / "damaged.beton"
    content = bytearray(path.read_bytes())
    content[int(open_beton(path).offsets("array")[33]) + 1000] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(ReadError, match=r"sample 33, field 'array': .* does not match its checksum"):
        list(loader(damaged, **SMALL))


@pytest.mark.parametrize(
    ("cache_gb", "match"),
    [
        (-1, "cache_gb must be"),
        (float("nan"), "cache_gb must be"),
        (0.001, "is less than one page of .*pass at least 0.0021, or 0"),
    ],
)
def test_sizes_that_cannot_be(path, cache_gb, match):
    with pytest.raises(PipelineError, match=match):
        loader(path, os_cache=False, cache_gb=cache_gb)


def test_a_size_that_has_no_effect_is_said(path, caplog):
    loader(path, os_cache=True, cache_gb=1)
    assert "cache_gb has no effect with os_cache=True" in caplog.text


def test_a_cache_too_small_for_quasi_randoms_pool_is_said(path, caplog):
    list(loader(path, order=OrderOption.QUASI_RANDOM, **SMALL))
    assert "pages of 2 MB open at a time and the cache holds 3; cache_gb=0.0" in caplog.text
