"""Merged shards are byte for byte the file of one machine; an error names what does not belong."""

from __future__ import annotations

import os
import resource
import shutil

import numpy as np
import pytest

from ffcv_gpu.errors import FormatError, PipelineError, SampleError, WriteError
from ffcv_gpu.fields import BytesField, IntField, JSONField, RaggedField, RGBImageField
from ffcv_gpu.format import MIN_PAGE_SIZE, open_beton
from ffcv_gpu.writer import DatasetWriter, merge_files
from ffcv_gpu.writer.shards import Shard
from tests.writer.stopping import Stop, Stopping

N = 60
FIELDS = {
    # Drawn by the sample's number in the whole file, not in the shard.
    "image": RGBImageField("proportion"),
    "label": IntField(),
    "doc": JSONField(),
    "text": BytesField(),
    "boxes": RaggedField("f4", (2,)),
}


def photos_of(photo, stop=None):
    """Photos with texts of up to 400 kB, some empty; two are bad."""

    def sample(k):
        text = "no bytes" if k in (11, 12) else bytes([k]) * (k % 5 * 100_000)
        return photo[k % 20 :], k, {"k": k}, text, np.full((k % 3, 2), k, np.float32)

    return Stopping(N, sample, stop)


@pytest.fixture(scope="module")
def photo(make_photo):
    return make_photo(60, 80)


def write(
    path,
    dataset,
    shard=None,
    fields=FIELDS,
    names=("a", "b"),
    skip="skip",
    resume=False,
    workers=1,
    **options,
):
    writer = DatasetWriter(
        path, fields, MIN_PAGE_SIZE, workers, progress=False, class_names=names, on_error=skip, fsync=False,
        resume=resume,
    )  # fmt: skip
    return writer.from_indexed_dataset(dataset, chunksize=7, shard=shard, **{"source_ids": str, **options})


def plain(path, values, shard=None, **options):
    """Write numbers."""
    dataset = [(value,) for value in values]
    return write(path, dataset, shard, {"label": IntField()}, **options).path


def paths(folder):
    return sorted(folder.glob("a-*-of-*"))


@pytest.fixture(scope="module")
def whole(photo, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "a.beton"
    write(path, photos_of(photo), shuffle_indices=True, seed=3)
    beton = open_beton(path, {"boxes": FIELDS["boxes"].metadata_type})
    assert beton.data_end > 4 * MIN_PAGE_SIZE and set(beton.column("image")["mode"].tolist()) == {0, 1}
    return path.read_bytes()


@pytest.mark.parametrize("count", [1, 2, 7, N])
def test_merged_shards_are_the_file_of_one_machine(tmp_path, photo, whole, count):
    for index in range(count):
        options = {"shuffle_indices": True, "seed": 3, "workers": 2 if count == 2 else 1}
        report = write(tmp_path / "a.beton", photos_of(photo), (index, count), **options)
        assert report.samples + len(report.skipped) in (N // count, N // count + 1)
    found = paths(tmp_path)
    assert [path.name for path in found] == [f"a-{k:05d}-of-{count:05d}.beton" for k in range(count)]
    report = merge_files(found[::-1], tmp_path / "merged", fsync=False)
    assert (tmp_path / "merged").read_bytes() == whole
    assert (report.samples, len(report.skipped)) == (N - 2, 2)


def test_a_seed_shuffles_as_numpys_global_one(tmp_path):
    before = np.random.get_state()[1].tolist()  # noqa: NPY002 - FFCV's
    seeded = plain(tmp_path / "a", range(N), shuffle_indices=True, seed=5)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    plain(tmp_path / "b", range(N), shuffle_indices=True)
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    assert open_beton(seeded).column("label").tolist() != list(range(N))


def test_a_shard_stands_alone(tmp_path, photo):
    report = write(tmp_path / "a.beton", photos_of(photo), (1, 6))
    beton = open_beton(report.path, {"boxes": FIELDS["boxes"].metadata_type})
    assert beton.column("label").tolist() == [10, *range(13, 20)]
    assert list(beton.source_ids) == ["10", *map(str, range(13, 20))] and beton.class_names == ("a", "b")
    assert [skip[:2] for skip in beton.skipped] == [(1, 11), (2, 12)] and report.skipped == beton.skipped
    note = beton.section.info["shard"]
    assert (note["index"], note["count"], note["conversion"]["number of samples"]) == (1, 6, N)


def test_progress_counts_the_shards_own(tmp_path):
    seen = []
    writer = DatasetWriter(tmp_path / "a", {"label": IntField()}, progress=lambda *said: seen.append(said))
    writer.from_indexed_dataset([(k,) for k in range(N)], shard=(2, 3))
    assert seen[-1] == (20, 20) and all(0 <= done <= total == 20 for done, total in seen)


def test_a_shard_that_is_there_is_left_alone(tmp_path, photo):
    first = write(tmp_path / "a.beton", photos_of(photo), (0, 6))
    inode, dataset = os.stat(first.path).st_ino, photos_of(photo)
    second = write(tmp_path / "a.beton", dataset, (0, 6))
    assert dataset.asked == [] and os.stat(first.path).st_ino == inode
    assert second.was_there and not first.was_there
    assert "10 samples" in str(second) and "already written, nothing to do" in str(second)
    counted = ("path", "samples", "bytes", "tally", "skipped")
    assert [getattr(first, name) for name in counted] == [getattr(second, name) for name in counted]
    assert os.listdir(tmp_path) == ["a-00000-of-00006.beton"]


def test_what_is_there_and_something_else_is_refused(tmp_path):
    path = plain(tmp_path / "a", range(4), (0, 2))
    with pytest.raises(WriteError, match=r"exists, from another conversion \(different class_names\)"):
        plain(tmp_path / "a", range(4), (0, 2), names=["b", "a"])
    shutil.copy(plain(tmp_path / "a", range(4), (1, 2)), path)
    with pytest.raises(WriteError, match=r"another conversion \(different shard\)"):
        plain(tmp_path / "a", range(4), (0, 2))
    os.replace(plain(tmp_path / "b", range(4)), path)
    with pytest.raises(WriteError, match="already exists and is not a shard"):
        plain(tmp_path / "a", range(4), (0, 2))
    os.truncate(path, 99)
    with pytest.raises(FormatError) as caught:
        plain(tmp_path / "a", range(4), (0, 2))
    assert caught.value.__notes__ == ["remove it, and it will be written again"]


def test_a_shard_that_was_cut_off_goes_on(tmp_path, photo):
    straight = write(tmp_path / "a.beton", photos_of(photo), (1, 2))
    content = (tmp_path / "a-00001-of-00002.beton").read_bytes()
    os.unlink(straight.path)
    with pytest.raises(Stop):
        write(tmp_path / "a.beton", photos_of(photo, 55), (1, 2), resume=True)
    assert paths(tmp_path) == []
    dataset = photos_of(photo)
    report = write(tmp_path / "a.beton", dataset, (1, 2), resume=True)
    assert report.resumed > 10 and min(dataset.asked) >= 30 + report.resumed
    assert (tmp_path / "a-00001-of-00002.beton").read_bytes() == content
    assert len(os.listdir(tmp_path)) == 1


def test_the_whole_does_not_go_on_with_a_shard(tmp_path, photo):
    with pytest.raises(Stop):
        write(tmp_path / "a.beton", photos_of(photo, 55), (1, 2), resume=True)
    with pytest.raises(WriteError, match=r"another conversion \(different shard\)"):
        write(tmp_path / "a-00001-of-00002.beton", photos_of(photo), resume=True)


def test_a_shard_may_be_empty(tmp_path):
    values = ["bad", "bad", 2, 3, "bad", "bad"]
    merge_files([plain(tmp_path / "a", values, (k, 3)) for k in range(3)], tmp_path / "merged", fsync=False)
    plain(tmp_path / "whole", values)
    assert (tmp_path / "merged").read_bytes() == (tmp_path / "whole").read_bytes()
    with pytest.raises(SampleError, match="none of the 2 shards has a sample"):
        merge_files([plain(tmp_path / "b", values[:2], (k, 2)) for k in range(2)], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_more_shards_than_files_may_be_open(tmp_path):
    shards = [plain(tmp_path / "a", range(N), (k, N)) for k in range(N)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 20, limits[1]))
    try:
        merge_files(shards, tmp_path / "merged", fsync=False)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert open_beton(tmp_path / "merged").column("label").tolist() == list(range(N))


def test_the_merged_file_is_no_shard(tmp_path):
    merge_files([plain(tmp_path / "a", range(4), (k, 2)) for k in range(2)], tmp_path / "merged")
    merge_files([tmp_path / "merged", tmp_path / "merged"], tmp_path / "twice")
    assert open_beton(tmp_path / "twice").column("label").tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


# ---- what does not belong together


def test_missing_shards_are_named(tmp_path):
    shards = [plain(tmp_path / "a", range(N), (k, 20)) for k in range(20)]
    for without, says in (
        ({7}, "shard 7 of 20 is missing: write it"),
        ({3, 17}, "shards 3 and 17 of 20 are missing: write them"),
        (set(range(1, 20)), r"shards 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 9 more of 20 are missing"),
    ):
        with pytest.raises(PipelineError, match=says):
            merge_files([path for k, path in enumerate(shards) if k not in without], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_shard_given_twice_and_files_that_are_none_are_named(tmp_path):
    one, two = (plain(tmp_path / "a", range(4), (k, 2)) for k in range(2))
    with pytest.raises(PipelineError, match=r"a-00000-of-00002 and .*a-00000-of-00002 are both shard 0 of 2"):
        merge_files([one, two, one], tmp_path / "out")
    other = plain(tmp_path / "b", range(4))
    with pytest.raises(PipelineError, match=r"a-00000-of-00002 is shard 0 of 2, but .*b is not a shard"):
        merge_files([other, one, two], tmp_path / "out")
    DatasetWriter(two, {"label": IntField()}, class_names=["a", "b"]).append([(9,)])
    with pytest.raises(PipelineError, match="a-00001-of-00002 is not a shard"):
        merge_files([one, two], tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"source_ids": lambda k: f"renamed/{k}"}, "listing of the source"),
        (
            {"values": range(1, 8), "source_ids": None},
            "listing of the source, number of samples, order of",
        ),
        ({"seed": 2}, "listing of the source, order of the samples"),
        ({"names": ["b", "a"]}, "class_names"),
        ({"skip": "raise"}, "on_error"),
        ({"count": 4}, "number of shards"),
    ],
)
def test_a_shard_of_another_conversion_is_named(tmp_path, change, says):
    change = {"values": range(6), "seed": 1, "count": 3, "shuffle_indices": True, **change}
    shards = [plain(tmp_path / "a", range(6), (k, 3), seed=1, shuffle_indices=True) for k in (0, 1)]
    odd = plain(tmp_path / "odd", change.pop("values"), (2, change.pop("count")), **change)
    apart = rf"odd-.* and .*a-.* are not from one conversion \(different {says}"
    with pytest.raises(PipelineError, match=apart):
        merge_files([odd, *shards], tmp_path / "out")


def test_a_dataset_may_say_that_it_has_changed(tmp_path):
    class Rows(list):
        pass

    one, two = Rows([(1,), (2,)]), Rows([(1,), (2,)])
    one.fingerprint, two.fingerprint = "x", "y"
    shards = [
        write(tmp_path / "a", rows, (k, 2), {"label": IntField()}).path for k, rows in enumerate((one, two))
    ]
    with pytest.raises(PipelineError, match=r"different content of the source\)"):
        merge_files(shards, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"shard": (3, 3)}, "there is no shard 3 of 3: shards are numbered from 0"),
        ({"shard": (-1, 3)}, "there is no shard -1 of 3"),
        ({"shard": (0, 0)}, "there is no shard 0 of 0"),
        ({"shard": 3}, "shard=3: give two integers"),
        ({"shard": "1/3"}, "shard='1/3': give two integers"),
        ({"shard": (0.5, 3)}, "give two integers"),
        ({"shard": (0, 7)}, "6 samples are too few for 7 shards"),
        ({"shard": (0, 2), "shuffle_indices": True}, "shuffle differently: give all of them the same seed="),
        ({"seed": 1}, "seed= only applies to a shuffle"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(tmp_path, options, says):
    with pytest.raises(PipelineError, match=says):
        plain(tmp_path / "a", range(6), **options)
    assert os.listdir(tmp_path) == []


def test_a_target_is_not_settled_by_each_machine(tmp_path, photo):
    fields = {"image": RGBImageField("auto", target=100)}
    with pytest.raises(PipelineError, match="field 'image': each machine would settle the target by its own"):
        write(tmp_path / "a", [(photo,)] * 4, (0, 2), fields)
    assert os.listdir(tmp_path) == []


# ---- streams, as WebDataset's tar files are


def stream(name):
    """Ten samples per stream, of which the third is bad; none in stream 4."""
    for k in range(10 * (name != "4")):
        text = "no bytes" if k == 2 else bytes([k]) * (k * 40_000)
        yield f"{name}.{k}", (np.full((8, 9, 3), k, np.uint8), int(name) * 10 + k, text)


STREAMS = list(map(str, range(7)))


def write_streams(path, shard=None, workers=1, names=STREAMS):
    fields = {name: FIELDS[name] for name in ("image", "label", "text")}
    writer = DatasetWriter(path, fields, MIN_PAGE_SIZE, workers, progress=False, on_error="skip", fsync=False)
    return writer._from_streams(names, stream, shard and Shard.wished(shard))


def contents(path):
    beton = open_beton(path)
    rows = [beton.column("label").tolist(), beton.column("image")["mode"].tolist()]
    for name in ("image", "text"):
        places = zip(beton.offsets(name).tolist(), beton.lengths(name).tolist(), strict=True)
        rows += [[beton.data[at : at + n].tobytes() for at, n in places], beton.checksums(name).tolist()]
    return rows, beton.facts("image").tolist(), beton.skipped


def test_shards_of_streams_have_the_samples_of_one_machine_in_its_order(tmp_path):
    write_streams(tmp_path / "whole")
    assert set(open_beton(tmp_path / "whole").column("image")["mode"].tolist()) == {0, 1}
    merged = []
    for count in (1, 3, 7):
        shards = [write_streams(tmp_path / "a", (k, count), 1 + k % 2).path for k in range(count)]
        merge_files(shards, tmp_path / "merged", fsync=False)
        assert contents(tmp_path / "merged") == contents(tmp_path / "whole")
        merged.append((tmp_path / "merged").read_bytes())
    assert merged[0] == merged[1] == merged[2]
    assert write_streams(tmp_path / "a", (2, 3)).was_there


def test_streams_are_dealt_whole(tmp_path):
    with pytest.raises(PipelineError, match="7 tar files are too few for 8 shards"):
        write_streams(tmp_path / "a", (0, 8))
    one = write_streams(tmp_path / "a", (0, 2)).path
    assert open_beton(one).column("label").tolist() == [k for k in range(30) if k % 10 != 2]
    other = write_streams(tmp_path / "b", (1, 2), names=STREAMS[::-1]).path
    with pytest.raises(PipelineError, match=r"different order of the samples\)"):
        merge_files([one, other], tmp_path / "out")
