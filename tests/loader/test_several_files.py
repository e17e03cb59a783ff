"""``Loader([one, another])``: what a loader of the merged file gives, on the CPU and on a (fake) GPU."""

from __future__ import annotations

import errno
import os
from itertools import pairwise

import numpy as np
import pytest

from ffcv_gpu.convert.beton import BetonDataset
from ffcv_gpu.errors import PipelineError, ReadError
from ffcv_gpu.fields import BytesField, IntField, RGBImageField
from ffcv_gpu.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv_gpu.loader import Loader, OrderOption, ResidentLoader
from ffcv_gpu.readers.positioned import PositionedReader
from ffcv_gpu.transforms import NormalizeImage, RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage
from ffcv_gpu.writer import DatasetWriter, merge_files
from tests.small_file import MEAN, STD, N, damaged, epoch, same, small_loader

#: where the small file is divided
CUTS = (0, 4, 5, 17, N)
PAGE_SIZES = (1 << 21, 1 << 22, 1 << 21, 1 << 23)


def write_parts(path, folder, cuts=CUTS, page_sizes=PAGE_SIZES):
    """Write each part of a file to one of its own; return their paths."""
    stored, paths = BetonDataset(path, decode=False), []
    for k, (begin, end) in enumerate(pairwise(cuts)):
        writer = DatasetWriter(folder / f"part{k}.beton", stored.fields, page_sizes[k % 4], progress=False)
        writer.from_indexed_dataset(stored, range(begin, end))
        paths.append(folder / f"part{k}.beton")
    return paths


@pytest.fixture(scope="module")
def parts(small, tmp_path_factory):
    return write_parts(small, tmp_path_factory.mktemp("parts"))


@pytest.fixture
def without_checksums(parts, monkeypatch):
    """Make the second part one of FFCV's: without checksums and facts."""
    from ffcv_gpu.format import Beton

    whole = Beton._read_section
    own = str(parts[1])
    monkeypatch.setattr(Beton, "_read_section", lambda beton: None if beton.path == own else whole(beton))


def augmented(paths, device, **options):
    image = [RandomResizedCropRGBImageDecoder((20, 24)), RandomHorizontalFlip(), ToTensor(), ToTorchImage()]
    pipelines = {"image": [*image, NormalizeImage(MEAN, STD, np.float16)]}
    return small_loader(paths, device, 5, pipelines=pipelines, **options)


# ---- what comes out


@pytest.mark.parametrize("reading", ["mapped", "pages", "pread"])
@pytest.mark.parametrize("order", [OrderOption.SEQUENTIAL, OrderOption.RANDOM])
def test_it_is_the_merged_file(device, small, parts, order, reading):
    ways = {"mapped": {}, "pages": {"os_cache": False}, "pread": {"os_cache": False, "cache_gb": 0}}
    made, whole = (
        augmented(parts, device, order=order, **ways[reading]),
        augmented(small, device, order=order),
    )
    assert len(made) == len(whole) and made.fname == [str(path) for path in parts]
    for _ in range(2):
        same(epoch(made), epoch(whole))


@pytest.mark.parametrize("os_cache", [True, False])
def test_quasi_random_is_every_sample_once_page_by_page(device, small, parts, os_cache, good):
    images, labels, vectors = epoch(
        small_loader(parts, device, order=OrderOption.QUASI_RANDOM, os_cache=os_cache)
    )
    assert sorted(labels) == list(range(N)) and list(labels) != list(range(N))
    same([vectors], [good[2][labels]])
    assert np.abs(images - good[0][labels]).max() < 0.1  # a GPU may round otherwise
    again = small_loader(parts, order=OrderOption.QUASI_RANDOM, num_workers=1, batch_size=7)
    assert np.array_equal(epoch(again)[1], labels)


def test_pages_are_counted_from_file_to_file(parts):
    made = small_loader(parts, order=OrderOption.QUASI_RANDOM)
    _, pages = np.unique(made.dataset.beton.sample_pages(), return_inverse=True)
    assert pages.tolist() == np.repeat(range(4), np.diff(CUTS)).tolist()


def test_no_page_has_bytes_of_two_files(parts):
    files = small_loader(parts).dataset.files
    assert all(file.base % max(PAGE_SIZES) == 0 for file in files)
    for one, other in pairwise(files):
        assert (
            one.base + one.beton.size_bytes <= other.base < one.base + one.beton.size_bytes + max(PAGE_SIZES)
        )


def test_rows_are_counted_from_file_to_file(device, parts):
    rows = [22, 3, 4, 5, 4]
    labels = epoch(small_loader(parts, device, indices=rows))[1]
    assert labels.tolist() == rows
    with pytest.raises(
        PipelineError, match=r"row 23 is not in .*part0\.beton and 3 more files, whose 23 samples"
    ):
        small_loader(parts, indices=[23])


def test_a_list_of_one_and_the_same_file_twice(small, parts, good):
    same(epoch(small_loader([small])), good)
    labels = epoch(small_loader([parts[0], parts[0]]))[1]
    assert labels.tolist() == [*range(4), *range(4)]


def test_ranks_share_all_files(parts):
    labels = [
        epoch(small_loader(parts, rank=rank, world_size=2, order=OrderOption.RANDOM))[1] for rank in (0, 1)
    ]
    dealt = np.stack(labels, axis=1).ravel()
    assert np.array_equal(dealt[:N], epoch(small_loader(parts, order=OrderOption.RANDOM))[1])


def test_filter_and_explain(parts, good):
    made = small_loader(parts, indices=range(0, N, 2), pipelines={"vector": None})
    same(epoch(made), [good[0][::2], good[1][::2]])
    filtered = small_loader(parts).filter("label", lambda label: label > 15)
    assert epoch(filtered)[1].tolist() == list(range(16, N)) and filtered.fname == small_loader(parts).fname
    assert "part0.beton and 3 more files: 12 of 23 samples" in made.explain()
    text = small_loader(parts).explain()
    assert "IntDecoder()  reads the column" in text and "NDArrayDecoder()  reads each sample's bytes" in text
    assert repr(small_loader(parts[:2])).endswith(
        "part0.beton and 1 more file'): 5 of 5 samples in batches of 2"
    )


def test_resident(tmp_path, make_photo):
    fields = {"image": RGBImageField(), "label": IntField()}
    paths = [tmp_path / "a.beton", tmp_path / "b.beton"]
    for path, seeds in zip(paths, (range(5), range(5, 8)), strict=True):
        samples = [(make_photo(16, 16, seed), seed) for seed in seeds]
        DatasetWriter(path, fields, progress=False).from_indexed_dataset(samples)
    loader = Loader(paths, 3, order=OrderOption.RANDOM, seed=1, drop_last=False)
    same(epoch(Loader(paths, 3, order=OrderOption.RANDOM, seed=1, drop_last=False)), epoch_of(loader))


def epoch_of(loader):
    batches = list(ResidentLoader(loader))
    return [np.concatenate([np.asarray(part) for part in column]) for column in zip(*batches, strict=True)]


def test_bytes_that_are_empty(tmp_path):
    texts, paths = [b"", b"one", b"", b"three", b"", b""], [tmp_path / "a.beton", tmp_path / "b.beton"]
    for path, part in zip(paths, (texts[:3], texts[3:]), strict=True):
        DatasetWriter(path, {"text": BytesField()}, progress=False).from_indexed_dataset(
            [(text,) for text in part]
        )
    for os_cache in (True, False):
        found = [
            bytes(text) for (batch,) in Loader(paths, 4, os_cache=os_cache, drop_last=False) for text in batch
        ]
        assert [text.rstrip(b"\0") for text in found] == texts


def test_facts_of_files_without_any_are_found_and_kept(gpu, parts, good, without_checksums, tmp_path):
    gpu()
    made = small_loader(parts, {"device": "cuda:0"}, cache_dir=tmp_path)
    assert np.array_equal(epoch(made)[1], good[1])
    assert len(os.listdir(tmp_path)) == 1
    assert made.dataset.found_facts("image")._known[::2].all()
    again = small_loader(parts, {"device": "cuda:0"}, cache_dir=tmp_path)
    assert again.dataset.found_facts("image")._known[::2].all()
    fewer = small_loader(parts[:2], {"device": "cuda:0"}, cache_dir=tmp_path)
    assert not fewer.dataset.found_facts("image")._known.any()


# ---- resuming


def test_resume(parts, small):
    settings = {"order": OrderOption.RANDOM, "batch_size": 4}
    made = small_loader(parts, **settings)
    running = iter(made)
    next(running)
    state = made.state_dict()
    running.close()
    again = small_loader(parts, **settings)
    again.load_state_dict(state)
    rest = epoch(again)[1]
    assert np.array_equal(rest, epoch(small_loader(small, **settings))[1][4:])
    for others in (parts[:3], [*parts[1:], parts[0]], small):
        with pytest.raises(PipelineError, match="the state was saved with another file"):
            small_loader(others, **settings).load_state_dict(state)


# ---- what is wrong


def test_a_damaged_sample_is_named_by_its_file(device, parts, tmp_path):
    bad = damaged(parts[2], tmp_path, (3, "image"), (4, "vector"))
    paths = [*parts[:2], bad, parts[3]]
    place = r"damaged\.beton: sample 3 \(row 8 of the 4 files\), field 'image': payload of \d+ bytes at byte"
    with pytest.raises(ReadError, match=place) as caught:
        epoch(small_loader(paths, device))
    offset = BetonDataset(bad)._file.payloads("image").offsets[3]
    assert caught.value.offset == offset and f"at byte {offset} " in str(caught.value)
    assert (caught.value.sample, caught.value.field) == (8, "image")
    made = small_loader(paths, device, on_error="skip", order=OrderOption.SEQUENTIAL)
    assert epoch(made)[1].tolist() == [*range(8), 10, 10, *range(10, N)]
    assert {entry.sample for entry in made.bad_samples()} == {8, 9}


def test_checksums_are_compared_in_the_files_that_have_them(device, parts, without_checksums, tmp_path):
    """The second file has none; of the third, an array and a raw image are damaged."""
    bad = damaged(parts[2], tmp_path, (2, "vector"), (4, "image"))
    paths = [*parts[:2], bad, parts[3]]
    made = small_loader(paths, device, on_error="skip", order=OrderOption.SEQUENTIAL)
    assert epoch(made)[1].tolist() == [*range(7), 8, 8, 10, *range(10, N)]
    assert {(entry.sample, entry.kind) for entry in made.bad_samples()} == {(7, "checksum"), (9, "checksum")}
    with pytest.raises(ReadError, match=r"sample 2 \(row 7 of .*does not match its checksum"):
        BetonDataset(paths)[7]
    assert len(BetonDataset(paths)[4]) == 3


def test_the_files_must_all_have_checksums_for_jpegs_to_be_cropped(parts, without_checksums):
    def sealed(paths):
        return BetonDataset(paths)._file.payloads("image").sealed

    assert sealed(parts[0]) and sealed(parts[2:]) and not sealed(parts[1]) and not sealed(parts)


@pytest.mark.parametrize("os_cache", [True, False])
def test_a_truncated_file(parts, tmp_path, os_cache):
    path = tmp_path / "short.beton"
    path.write_bytes(parts[3].read_bytes())
    made = small_loader([*parts[:3], path], os_cache=os_cache)
    os.truncate(path, 5000)
    with pytest.raises(ReadError, match=r"short\.beton was truncated from \d+ to 5000 bytes"):
        epoch(made)


def test_a_failing_disk_of_one_file(parts, monkeypatch):
    whole = PositionedReader._read_range

    def read(self, offset, target):
        if self._path == str(parts[2]):
            raise ReadError(f"{self._path}: cannot read: {os.strerror(errno.EIO)}")
        whole(self, offset, target)

    monkeypatch.setattr(PositionedReader, "_read_range", read)
    made = small_loader(parts, os_cache=False, cache_gb=0, on_error="skip")
    assert set(epoch(made)[1].tolist()) == {*range(5), *range(17, N)}


def test_files_that_do_not_fit_together(parts, tmp_path):
    other = tmp_path / "other.beton"
    DatasetWriter(other, {"label": IntField()}, progress=False).from_indexed_dataset([(1,), (2,)])
    with pytest.raises(
        PipelineError, match=r"other\.beton and .*part0\.beton cannot be joined, their fields differ"
    ):
        Loader([parts[0], other], 2)
    names = [tmp_path / "ab.beton", tmp_path / "ba.beton"]
    for path, classes in zip(names, (["a", "b"], ["b", "a"]), strict=True):
        writer = DatasetWriter(path, {"label": IntField()}, progress=False, class_names=classes)
        writer.from_indexed_dataset([(1,), (0,)])
    with pytest.raises(PipelineError, match="the class names differ"):
        Loader(names, 2)
    with pytest.raises(PipelineError, match="fname is an empty list"):
        Loader([], 2)
    with pytest.raises(PipelineError, match="or a list of several, not a int"):
        Loader([parts[0], 3], 2)
    with pytest.raises(ReadError, match=r"absent\.beton"):
        Loader([parts[0], tmp_path / "absent.beton"], 2)


def test_what_reads_one_file_says_so(parts):
    made = small_loader(parts)
    for name in ("reader", "memory_manager"):
        with pytest.raises(PipelineError, match=r"a Reader reads one file: .*part0\.beton and 3 more files"):
            getattr(made, name)


def test_shards_are_read_as_the_merged_file(tmp_path, make_photo):
    samples = [(make_photo(30 + k, 40, k), k) for k in range(11)]
    fields = {"image": RGBImageField(write_mode="jpg"), "label": IntField()}
    for k in range(3):
        writer = DatasetWriter(tmp_path / "a.beton", fields, num_workers=1, progress=False)
        writer.from_indexed_dataset(samples, shard=(k, 3))
    shards = sorted(tmp_path.glob("a-*.beton"))
    merge_files(shards, tmp_path / "whole.beton")
    crop = {
        "image": [RandomResizedCropRGBImageDecoder((16, 16))],
        "label": [IntDecoder(), ToTensor(), Squeeze(1)],
    }
    settings = {"order": OrderOption.RANDOM, "seed": 4, "drop_last": False, "pipelines": crop}
    same(epoch(Loader(shards, 4, **settings)), epoch(Loader(tmp_path / "whole.beton", 4, **settings)))
