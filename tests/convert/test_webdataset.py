"""Shards written by the webdataset library itself: read once each, in order, and every bad one by name."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import signal
import sys
import tarfile

import numpy as np
import pytest

from ffcv_gpu.errors import PipelineError, SampleError, WriteError
from ffcv_gpu.fields import BytesField, Field, IntField, RGBImageField
from ffcv_gpu.fields.base import ARG_TYPE
from ffcv_gpu.format import MIN_PAGE_SIZE, open_beton, verify_structure
from ffcv_gpu.writer import DatasetWriter
from ffcv_gpu.writer.streams import LANES

wds = pytest.importorskip("webdataset", reason="the extra 'webdataset' is not installed")

FIELDS = {"image": RGBImageField(), "label": IntField()}
COUNTS = [7, 0, 12, 5, 1, 9]


def as_stored(dataset):
    return dataset.to_tuple("jpg", "cls").map_tuple(None, int)


@pytest.fixture(scope="module")
def jpegs(make_jpeg):
    return [make_jpeg(60 + k, 80, k) for k in range(sum(COUNTS))]


@pytest.fixture(scope="module")
def shards(jpegs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    names, k = [], 0
    for number, count in enumerate(COUNTS):
        names.append(str(folder / f"train-{number:03d}.tar"))
        with wds.TarWriter(names[-1]) as sink:
            for _ in range(count):
                sink.write({"__key__": f"photo{k:04d}", "jpg": jpegs[k], "cls": k})
                k += 1
    return names


def write(path, shards, pipeline=as_stored, fields=FIELDS, workers=1, **options):
    writer = DatasetWriter(path, fields, MIN_PAGE_SIZE, workers, progress=False, **options)
    return writer.from_webdataset(shards, pipeline)


def begin_of_member(tar, number):
    with tarfile.open(fileobj=io.BytesIO(tar)) as file:
        return file.getmembers()[number].offset


def payload(beton, name, k):
    begin = int(beton.offsets(name)[k])
    return beton.data[begin : begin + int(beton.lengths(name)[k])].tobytes()


def test_samples_in_the_order_of_the_shards(tmp_path, shards, jpegs):
    report = write(tmp_path / "a.beton", shards)
    beton = open_beton(tmp_path / "a.beton")
    assert report.samples == beton.num_samples == sum(COUNTS)
    assert report.modes == {"jpeg pass-through": sum(COUNTS)}
    assert beton.column("label").tolist() == list(range(sum(COUNTS)))
    assert [payload(beton, "image", k) for k in range(len(jpegs))] == jpegs
    assert verify_structure(beton) == []
    assert beton.facts("image")["components"].tolist() == [3] * len(jpegs)


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_the_file_does_not_depend_on_the_workers(tmp_path, shards, workers):
    fields = {"image": RGBImageField("proportion", 60), "label": IntField()}
    write(tmp_path / "one.beton", shards, fields=fields)
    write(tmp_path / "many.beton", shards, fields=fields, workers=workers)
    assert (tmp_path / "one.beton").read_bytes() == (tmp_path / "many.beton").read_bytes()


def test_one_shard_gives_the_file_of_an_indexed_dataset(tmp_path, shards, jpegs):
    write(tmp_path / "a.beton", shards[0])
    samples = [(jpegs[k], k) for k in range(COUNTS[0])]
    DatasetWriter(tmp_path / "b.beton", FIELDS, MIN_PAGE_SIZE, 1).from_indexed_dataset(samples)
    assert (tmp_path / "a.beton").read_bytes() == (tmp_path / "b.beton").read_bytes()


def test_braces_and_decoded_samples_as_mappings(tmp_path, shards):
    def decoded(dataset):
        return dataset.decode("rgb8").rename(image="jpg", label="cls")

    write(tmp_path / "a.beton", shards[0].replace("000", "{000..005}"), decoded, workers=2)
    beton = open_beton(tmp_path / "a.beton")
    assert beton.column("label").tolist() == list(range(sum(COUNTS)))
    assert (beton.column("image")["mode"] == 1).all()


def test_each_shard_is_read_once(tmp_path, shards):
    opened = []

    def counting(dataset):
        return as_stored(dataset.map(lambda sample: opened.append(sample["__key__"]) or sample))

    write(tmp_path / "a.beton", shards, counting)
    assert sorted(opened) == [f"photo{k:04d}" for k in range(sum(COUNTS))]


def test_more_shards_than_lanes(tmp_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    names = [str(folder / f"{k}.tar") for k in range(2 * LANES + 3)]
    for k, name in enumerate(names):
        with wds.TarWriter(name) as sink:
            for i in range(k % 3 + 1):
                sink.write({"__key__": f"{i}", "bin": bytes([k, i]) * 1000, "cls": 10 * k + i})
    fields = {"data": BytesField(), "label": IntField()}

    def pipeline(dataset):
        return dataset.to_tuple("bin", "cls").map_tuple(None, int)

    files = []
    for workers in (1, 5):
        write(tmp_path / f"{workers}.beton", names, pipeline, fields, workers)
        files.append((tmp_path / f"{workers}.beton").read_bytes())
    beton = open_beton(tmp_path / "1.beton")
    labels = [10 * k + i for k in range(len(names)) for i in range(k % 3 + 1)]
    assert beton.column("label").tolist() == labels
    for row, label in enumerate(labels):
        assert payload(beton, "data", row) == bytes([label // 10, label % 10]) * 1000
    assert files[0] == files[1]


HASH = (1 << 62) + (1 << 50)


class Wide(Field):
    """A record of 300 kB, so that few samples need several pages of metadata; its pointer is found by us."""

    metadata_type = np.dtype([("fill", "u1", 300_000), ("size", "<u8"), ("hash", "<u8"), ("where", "<u8")])
    from_binary = staticmethod(lambda binary: Wide())

    def to_binary(self):
        return np.zeros(1, ARG_TYPE)[0]

    def encode(self, destination, value, malloc):
        destination["where"], memory = malloc(100)
        destination["size"] = 1 << 21  # numbers that could be taken for a place in the file
        destination["hash"] = HASH
        memory[:] = value


@pytest.mark.parametrize("side", [40, 700])
def test_metadata_of_more_pages_than_one_makes_itself_room(tmp_path, shards, side):
    def pipeline(dataset):
        for _, label in as_stored(dataset):
            yield label, bytes([label]) * (label % 4), np.full((side, side, 3), label, np.uint8)

    fields = {"wide": Wide(), "data": BytesField(), "image": RGBImageField("raw")}
    for workers in (1, 3):
        write(tmp_path / f"{workers}.beton", shards, pipeline, fields, workers)
    assert (tmp_path / "1.beton").read_bytes() == (tmp_path / "3.beton").read_bytes()
    beton = open_beton(tmp_path / "1.beton", {"wide": Wide.metadata_type})
    assert beton.layout.data_offset > 4 * MIN_PAGE_SIZE
    assert verify_structure(beton) == []
    assert (beton.column("wide")["size"] == 1 << 21).all() and (beton.column("wide")["hash"] == HASH).all()
    assert (np.diff(beton.allocations["ptr"].astype(np.int64)) > 0).all()
    for k in range(sum(COUNTS)):
        assert payload(beton, "image", k) == bytes([k]) * (side * side * 3)
        assert payload(beton, "data", k) == bytes([k]) * (k % 4)
        where = int(beton.column("wide")["where"][k])
        assert beton.data[where : where + 100].tolist() == [k] * 100
    padding = beton.data[beton.layout.metadata_end : beton.layout.data_offset]
    assert not padding.any()


# ---- what goes wrong


def fails(tmp_path, shards, pipeline, workers):
    path = tmp_path / "a.beton"
    path.write_bytes(b"old")
    with pytest.raises(SampleError) as caught:
        write(path, shards, pipeline, workers=workers)
    assert path.read_bytes() == b"old" and [entry.name for entry in tmp_path.glob("*a.beton*")] == ["a.beton"]
    return str(caught.value)


def explode(sample):
    if int(sample["cls"]) == 10:
        raise ZeroDivisionError("of my own")
    return sample


# Where every shard is bad, the first that a process finds is named.
BAD = {
    "returns None": (lambda dataset: None, r".tar': the pipeline returned NoneType"),
    "gives None": (
        lambda dataset: (None if cls == 10 else (jpg, cls) for jpg, cls in as_stored(dataset)),
        "train-002.tar', sample 'photo0010': the pipeline returned type NoneType, expected a tuple of 2",
    ),
    "too few values": (
        lambda dataset: dataset.to_tuple("jpg"),
        "train-00X.tar', sample 'photoX': the pipeline returned 1 value, expected a tuple of 2",
    ),
    "wrong order": (
        lambda dataset: dataset.to_tuple("cls", "jpg"),
        "train-00X.tar', sample 'photoX', field 'image': unreadable image",
    ),
    "a member that is not there": (
        lambda dataset: dataset.to_tuple("png", "cls"),
        "train-00X.tar', at sample 'photoX': the pipeline raised ValueError: didn't find",
    ),
    "an error of its own": (
        lambda dataset: as_stored(dataset.map(explode)),
        "train-002.tar', at sample 'photo0010': the pipeline raised ZeroDivisionError: of my own",
    ),
    "a mapping without a field": (lambda dataset: dataset, "returned a mapping without 'image'; its keys"),
}  # fmt: skip


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_pipeline_is_one_error_with_shard_and_key(tmp_path, shards, name, workers):
    pipeline, says = BAD[name]
    message = fails(tmp_path, shards, pipeline, workers)
    if "X" in says:
        message = re.sub(
            r"train-00\d.tar', (at )?sample 'photo\d{4}'", r"train-00X.tar', \1sample 'photoX'", message
        )
    assert says in message


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("cut", "says"),
    [
        (lambda data: data[:5000], "unexpected end of data"),  # in a member
        (lambda data: data[: begin_of_member(data, 7)], "it is truncated"),  # half a sample
        (lambda data: data[: begin_of_member(data, 8)], "it is truncated"),
        (lambda data: data[: begin_of_member(data, 8) + 100], "it is truncated"),  # in a header
        (lambda data: b"no tar file at all" + bytes(2000), "damaged, truncated"),
        (lambda data: b"", "empty file; the tar file is damaged, truncated"),
    ],
)
def test_a_bad_tar_file_is_named(tmp_path, shards, cut, says, workers):
    broken = tmp_path / "broken.tar"
    with open(shards[2], "rb") as file:
        broken.write_bytes(cut(file.read()))
    message = fails(tmp_path, [shards[0], str(broken)], as_stored, workers)
    assert f"shard {str(broken)!r}" in message and says in message


@pytest.mark.parametrize("suffix", ["tgz", "tar.gz", "tar.bz2", "tar.xz"])
def test_compressed_shards(tmp_path, shards, suffix):
    pack = {"tgz": gzip, "tar.gz": gzip, "tar.bz2": bz2, "tar.xz": lzma}[suffix]
    packed = tmp_path / f"packed.{suffix}"
    for name, says in {"whole": None, "without an end": "it is truncated", "cut": "EOFError"}.items():
        with open(shards[2], "rb") as file:
            data = file.read()
        data = pack.compress(data[: begin_of_member(data, 7)] if name == "without an end" else data)
        packed.write_bytes(data[:-200] if name == "cut" else data)
        if says is None:
            plain, other = tmp_path / "plain.beton", tmp_path / "packed.beton"
            write(plain, [shards[2]], as_stored), write(other, [str(packed)], as_stored)
            assert plain.read_bytes() == other.read_bytes()
        else:
            message = fails(tmp_path, [shards[0], str(packed)], as_stored, 1)
            assert f"shard {str(packed)!r}" in message and says in message


@pytest.mark.parametrize("beyond", [0, 100])
def test_a_stream_cut_between_members_or_in_a_header(tmp_path, shards, beyond):
    """tarfile, and so webdataset, takes it for a whole one."""
    with open(shards[2], "rb") as file:
        cut = begin_of_member(file.read(), 7) + beyond
    message = fails(tmp_path, [shards[0], f"pipe:head -c {cut} {shards[2]}"], as_stored, 1)
    assert "after sample 'photo" in message and "it is truncated" in message


def test_a_stream_cut_in_a_member(tmp_path, shards):
    message = fails(tmp_path, [shards[0], f"pipe:head -c 5000 {shards[2]}"], as_stored, 1)
    assert "train-002.tar', before its first sample: ReadError: unexpected end of data" in message


def test_a_shard_that_is_not_there(tmp_path, shards):
    message = fails(tmp_path, [shards[0], str(tmp_path / "no.tar")], as_stored, 1)
    assert "FileNotFoundError: No such file or directory; the tar file is" in message
    message = fails(tmp_path, [shards[0], f"pipe:cat {tmp_path}/no.tar"], as_stored, 1)
    assert "no.tar', before its first sample" in message


def test_no_samples_and_no_shards(tmp_path, shards):
    assert "no samples in the tar files" in fails(tmp_path, [shards[1]], as_stored, 1)
    assert "no shards" in fails(tmp_path, [], as_stored, 1)


def test_a_worker_that_dies_names_its_shard(tmp_path, shards):
    def deadly(dataset):
        for sample in as_stored(dataset):
            if sample[1] == 10:
                os.kill(os.getpid(), signal.SIGKILL)
            yield sample

    with pytest.raises(WriteError, match=r"SIGKILL while at shard '.*train-002.tar', sample number 3"):
        write(tmp_path / "a.beton", shards, deadly, workers=2)


def test_without_the_library_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(PipelineError, match=r"pip install 'ffcv-gpu\[webdataset\]'"):
        write(tmp_path / "a.beton", ["a.tar"])


def test_progress_knows_the_number_at_the_end(tmp_path, shards):
    calls = []
    writer = DatasetWriter(
        tmp_path / "a.beton", FIELDS, MIN_PAGE_SIZE, 2, progress=lambda *c: calls.append(c)
    )
    writer.from_webdataset(shards, as_stored)
    assert calls[-1] == (sum(COUNTS), sum(COUNTS)) and {total for _, total in calls[:-1]} <= {None}


@pytest.mark.parametrize("workers", [1, 3])
def test_samples_that_cannot_be_stored_are_left_out_on_request(tmp_path, shards, jpegs, workers):
    def pipeline(dataset):
        for jpeg, label in as_stored(dataset):
            yield (b"no image" if label in (3, 10, 11, 33) else jpeg), label

    report = write(tmp_path / f"{workers}.beton", shards, pipeline, workers=workers, on_error="skip")
    beton = open_beton(tmp_path / f"{workers}.beton")
    kept = [k for k in range(sum(COUNTS)) if k not in (3, 10, 11, 33)]
    assert beton.column("label").tolist() == kept and report.samples == len(kept)
    assert [payload(beton, "image", row) for row in range(len(kept))] == [jpegs[k] for k in kept]
    assert [(skip.position, skip.key) for skip in report.skipped] == [
        (k, f"photo{k:04d}") for k in (3, 10, 11, 33)
    ]
    assert "train-002.tar', field 'image': unreadable image" in report.skipped[1].reason
    assert [tuple(skip) for skip in beton.skipped] == [tuple(skip) for skip in report.skipped]
    assert verify_structure(beton) == []
    with pytest.raises(SampleError, match="all 34 samples were skipped"):
        write(tmp_path / "b.beton", shards, lambda dataset: ((b"", 0) for _ in dataset), workers=workers,
              on_error="skip")  # fmt: skip


def test_a_stream_cannot_go_on_where_it_was(tmp_path, shards):
    with pytest.raises(PipelineError, match="resume=True: only from_indexed_dataset"):
        write(tmp_path / "a.beton", shards, resume=True)
