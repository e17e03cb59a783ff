"""Facts of JPEGs found on the way: read once, kept, and none for what no GPU may see."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

from ffcv_gpu.dataset import facts as module
from ffcv_gpu.dataset.dataset import Dataset
from ffcv_gpu.dataset.facts import FactsStore
from ffcv_gpu.dataset.facts_file import FactsFile
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.format.beton import Beton
from ffcv_gpu.jpeg.scan import NO_FACTS, scan_jpegs
from ffcv_gpu.loader import Loader
from tests.range_server import RangeServer
from tests.remote_file import write_long
from tests.small_file import epoch, small_pipelines


@pytest.fixture
def images(make_jpeg):
    files = [make_jpeg(20, 30, 0), make_jpeg(20, 30, 1, progressive=True), b"no JPEG", make_jpeg(8, 9, 2)]
    lengths = np.array([len(file) for file in files])
    stored = np.frombuffer(b"".join(files), np.uint8)
    return stored, np.cumsum(lengths) - lengths, lengths, np.array([20, 20, 20, 8]), np.array([30, 30, 30, 7])


def test_headers_are_read_once(images, monkeypatch):
    stored, offsets, lengths, heights, widths = images
    scanned = []

    def counting(stored, offsets, lengths):
        scanned.extend(offsets.tolist())
        return scan_jpegs(stored, offsets, lengths)

    monkeypatch.setattr(module, "scan_jpegs", counting)
    store, samples = FactsStore(10), np.array([7, 2, 3, 9])
    first = store.look_up(samples, stored, offsets, lengths, heights, widths)
    again = store.look_up(samples[::-1], stored, offsets[::-1], lengths[::-1], heights[::-1], widths[::-1])
    assert sorted(scanned) == offsets.tolist()
    assert np.array_equal(first, again[::-1])
    good = scan_jpegs(stored, offsets, lengths).facts
    assert np.array_equal(first[:2], good[:2])
    assert first[2].tolist() == first[3].tolist() == NO_FACTS  # no JPEG; not of the size recorded


# ---- kept from one run to the next


def place(folder, identity="1 2 3", field="image"):
    return FactsFile(str(folder), "/data/train.beton", field, identity)


def looked_up(store, images, samples=(7, 2, 3, 9)):
    stored, offsets, lengths, heights, widths = images
    chosen = slice(0, len(samples))
    parts = (part[chosen] for part in (offsets, lengths, heights, widths))
    return store.look_up(np.array(samples), stored, *parts)


@pytest.fixture
def no_scan(monkeypatch):
    """From here on nothing may be read again."""

    def refused(*_):
        raise AssertionError("a header was read")

    return lambda: monkeypatch.setattr(module, "scan_jpegs", refused)


def test_the_next_run_reads_no_header(images, tmp_path, no_scan):
    store = FactsStore(10, place(tmp_path))
    first = looked_up(store, images)
    store.keep()
    no_scan()
    assert np.array_equal(looked_up(FactsStore(10, place(tmp_path)), images), first)
    (path,) = tmp_path.iterdir()
    written = path.stat().st_mtime_ns
    store.keep()  # nothing new: nothing written
    assert path.stat().st_mtime_ns == written


def test_ranks_add_to_each_other_s(images, tmp_path, no_scan):
    one, two = (FactsStore(10, place(tmp_path)) for _ in range(2))
    first = looked_up(one, images)
    one.keep()
    looked_up(two, images, (0, 1))
    two.keep()
    no_scan()
    third = FactsStore(10, place(tmp_path))
    assert np.array_equal(looked_up(third, images), first)
    assert np.array_equal(looked_up(third, images, (0, 1)), first[:2])


@pytest.mark.parametrize("other", [{"identity": "1 2 4"}, {"field": "second"}])
def test_facts_of_another_file_or_field_do_not_count(images, tmp_path, other):
    store = FactsStore(10, place(tmp_path))
    looked_up(store, images)
    store.keep()
    assert place(tmp_path, **other).load(10) is None
    assert place(tmp_path).load(11) is None
    assert place(tmp_path).load(10) is not None


def test_a_damaged_file_counts_as_absent_and_is_written_anew(images, tmp_path):
    store = FactsStore(10, place(tmp_path))
    first = looked_up(store, images)
    store.keep()
    (path,) = tmp_path.iterdir()
    good = path.read_bytes()
    for k in range(len(good)):
        path.write_bytes(good[:k] + bytes([good[k] ^ 1]) + good[k + 1 :])
        assert place(tmp_path).load(10) is None, k
    for k in (0, 1, len(good) - 1):
        path.write_bytes(good[:k])
        assert place(tmp_path).load(10) is None
    again = FactsStore(10, place(tmp_path))
    assert np.array_equal(looked_up(again, images), first)
    again.keep()
    assert path.read_bytes() == good


def test_a_folder_that_cannot_be_used_is_one_warning_each(images, tmp_path, caplog):
    gone = tmp_path / "gone"
    store = FactsStore(10, place(gone))
    looked_up(store, images)
    store.keep()
    store.keep()
    assert [record.message.count("cannot write") for record in caplog.records] == [1]
    assert not gone.exists()


def test_a_loader_keeps_facts_while_the_file_is_what_it_was(gpu, small, tmp_path, monkeypatch, no_scan):
    gpu()
    monkeypatch.setattr(Beton, "facts", lambda self, name: None)  # as a file of FFCV's
    path, cache = tmp_path / "copy.beton", tmp_path / "made" / "cache"
    shutil.copy(small, path)

    def images():
        options = {"num_workers": 2, "seed": 2, "drop_last": False, "pipelines": small_pipelines("cuda:0")}
        return epoch(Loader(path, 5, cache_dir=cache, **options))[0]

    first = images()
    assert len(list(cache.iterdir())) == 1
    no_scan()
    assert np.array_equal(images(), first)
    os.utime(path, ns=(1, 1))
    with pytest.raises(AssertionError, match="a header was read"):
        images()
    with pytest.raises(PipelineError, match=r"cache_dir=.*cannot be created"):
        Loader(small, 5, cache_dir=path)


def test_facts_of_a_url_are_kept_while_the_object_is_what_it_was(images, tmp_path, no_scan):
    pytest.importorskip("obstore")
    server = RangeServer(write_long(tmp_path / "long.beton").read_bytes())

    def opened():
        dataset = Dataset(server.url, {}, os_cache=True, cache_dir=str(tmp_path))
        list(dataset.remotes[0].bring_all())  # changes the modification time of the copy
        return dataset.found_facts("vector")

    store = opened()
    first = looked_up(store, images)
    store.keep()
    no_scan()
    assert np.array_equal(looked_up(opened(), images), first)
    server.tag = '"two"'
    with pytest.raises(AssertionError, match="a header was read"):
        looked_up(opened(), images)
    server.close()
