"""Merged files and appended samples: equal to what was in the inputs, with their checksums and names."""

from __future__ import annotations

import gzip
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ffcv_gpu.errors import FormatError, PipelineError, ReadError, WriteError
from ffcv_gpu.fields import (
    BytesField,
    Field,
    FloatField,
    ImageField,
    IntField,
    JSONField,
    MaskField,
    NDArrayField,
    RaggedField,
    RGBImageField,
)
from ffcv_gpu.fields.base import ARG_TYPE
from ffcv_gpu.format import MIN_PAGE_SIZE, open_beton, structure_notes, verify_structure
from ffcv_gpu.writer import DatasetWriter, merge_files
from ffcv_gpu.writer.builder import BetonBuilder

FIXTURES = Path(__file__).parents[1] / "fixtures"


class Two(Field):
    """Two payloads and a number that looks like a pointer; says which members are pointers."""

    metadata_type = np.dtype([("number", "<u8"), ("first", "<u8"), ("second", "<u8")])
    pointers = ("first", "second")
    from_binary = staticmethod(lambda binary: Two())

    def to_binary(self):
        return np.zeros(1, ARG_TYPE)[0]

    def encode(self, destination, value, malloc):
        first, one = malloc(len(value))
        second, other = malloc(2)
        one[:], other[:] = list(value), 7
        destination["number"], destination["first"], destination["second"] = MIN_PAGE_SIZE, first, second


class Silent(Two):
    pointers = ()
    from_binary = staticmethod(lambda binary: Silent())


FIELDS = {
    "image": RGBImageField(),
    "label": IntField(),
    "score": FloatField(),
    "array": NDArrayField("<f4", (2,)),
    "doc": JSONField(),
    "text": BytesField(),
    "two": Two(),
}
RECORDS = {"two": Two.metadata_type}


@pytest.fixture(scope="module")
def samples(make_jpeg, make_photo):
    jpegs = [make_jpeg(20 + k, 30, k, mode="L" if k == 2 else "RGB") for k in range(4)]
    photos = [make_photo(10 + k, 15, k) for k in range(3)]
    return [
        (
            jpegs[k % 4] if k % 3 else photos[k % 3],
            k,
            k / 3,
            np.array([k, -k], "<f4"),
            {"k": k},
            bytes([k % 256]) * (k % 4 * 9000),
            bytes(k % 3),
        )
        for k in range(150)
    ]


def write(path, samples, *, page_size=MIN_PAGE_SIZE, fields=None, names=None, sources=None, **options):
    writer = DatasetWriter(
        path, fields or FIELDS, page_size, 1, progress=False, class_names=names, fsync=False, **options
    )
    writer.from_indexed_dataset(samples, source_ids=sources)
    return path


def contents(path, records=RECORDS):
    """Every sample as its bytes: scalars, and payloads by pointer and length, with checksum and facts."""
    beton = open_beton(path, records)
    assert verify_structure(beton, {"two": Two.pointers}) == []
    columns = []
    for name in beton.field_names:
        pointers = Two.pointers if name == "two" else (None,)
        for pointer in pointers if name not in ("label", "score") else ():
            places = zip(beton.offsets(name, pointer), beton.lengths(name, pointer), strict=True)
            columns.append([beton.data[at : at + size].tobytes() for at, size in places])
            columns.append(beton.checksums(name, pointer).tolist())
        if name in ("label", "score"):
            columns.append(beton.column(name).tolist())
        if name == "two":
            assert set(beton.column(name)["number"].tolist()) == {MIN_PAGE_SIZE}
        if name == "image":
            columns.append(beton.facts(name).tolist())
            columns.append(beton.column(name)[["mode", "width", "height"]].tolist())
    return list(zip(*columns, strict=True))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 149), min_size=0, max_size=3, unique=True), big=st.booleans())
def test_merged_files_hold_the_samples_of_all(tmp_path, samples, cuts, big):
    edges = [0, *sorted(cuts), 150]
    paths = [
        write(tmp_path / f"{k}", samples[a:b], page_size=MIN_PAGE_SIZE << (big and k % 2))
        for k, (a, b) in enumerate(itertools.pairwise(edges))
    ]
    report = merge_files(paths, tmp_path / "all", custom_fields={"two": Two}, fsync=False)
    assert contents(tmp_path / "all") == contents(write(tmp_path / "whole", samples))
    assert report.samples == 150 and report.bytes == (tmp_path / "all").stat().st_size
    assert report.modes == {"raw": 50, "jpeg pass-through": 100}
    parts = open_beton(tmp_path / "all", RECORDS).section.info["parts"]
    assert [part["samples"] for part in parts] == np.diff(edges).tolist()


def test_appending_is_writing_in_one_go(tmp_path, samples):
    path = write(tmp_path / "a", samples[:60], names=["x", "y"], sources=[f"s{k}" for k in range(60)])
    writer = DatasetWriter(path, FIELDS, num_workers=2, progress=False, class_names=["x", "y"])
    report = writer.append(samples, range(60, 150), 7, source_ids=[f"s{k}" for k in range(150)])
    assert report.samples == 150 and report.modes == {"raw": 50, "jpeg pass-through": 100}
    assert contents(path) == contents(write(tmp_path / "whole", samples))
    beton = open_beton(path, RECORDS)
    assert beton.page_size == MIN_PAGE_SIZE  # the old file's, not the writer's default
    assert list(beton.source_ids) == [f"s{k}" for k in range(150)]
    assert beton.class_names == ("x", "y")
    assert sorted(os.listdir(tmp_path)) == ["a", "whole"]


def test_an_append_that_fails_leaves_the_old_file(tmp_path, samples):
    path = write(tmp_path / "a", samples[:20])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="sample 1"):
        DatasetWriter(path, FIELDS, progress=False).append([samples[0], (1, 2)])
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a"]


def test_two_appends_at_once_lose_nothing_unnoticed(tmp_path):
    path = write(tmp_path / "a", [(0,)], fields={"a": IntField()})

    def append(samples):
        DatasetWriter(path, {"a": IntField()}, num_workers=1).append(samples)

    class Nested(list):
        def __getitem__(self, k):
            append([(1,)])
            return super().__getitem__(k)

    with pytest.raises(WriteError, match="a was replaced while samples were appended to it; append again"):
        append(Nested([(2,)]))
    assert open_beton(path).column("a").tolist() == [0, 1] and os.listdir(tmp_path) == ["a"]


def test_an_append_that_ends_while_another_is_flushed_is_not_lost(tmp_path, monkeypatch):
    """Flushing takes minutes for a large file: what the other one appended must not be replaced then."""
    path = write(tmp_path / "a", [(0,)], fields={"a": IntField()})
    real, flushed = os.fsync, []

    def append(number):
        DatasetWriter(path, {"a": IntField()}, num_workers=1).append([(number,)])

    def fsync(fd):
        real(fd)
        flushed.append(fd)
        if len(flushed) == 1:
            append(1)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(WriteError, match="a was replaced while samples were appended to it; append again"):
        append(2)
    assert open_beton(path).column("a").tolist() == [0, 1] and os.listdir(tmp_path) == ["a"]


def test_files_may_be_merged_onto_one_of_themselves(tmp_path, samples):
    one, two = write(tmp_path / "1", samples[:70]), write(tmp_path / "2", samples[70:])
    merge_files([one, two], one, custom_fields={"two": Two})
    assert contents(one) == contents(write(tmp_path / "whole", samples))


@pytest.mark.parametrize("first", [[b""] * 3, [bytes(MIN_PAGE_SIZE), b"", b""]])
def test_empty_payloads_keep_places_of_their_own(tmp_path, first):
    """FFCV finds payloads by their offsets, and would take an empty one for its neighbour."""
    fields = {"text": BytesField()}
    texts = [*first, b"one", b"two"]
    one = write(tmp_path / "1", [(text,) for text in first], fields=fields)
    two = write(tmp_path / "2", [(b"one",), (b"two",)], fields=fields)
    merge_files([one, two], tmp_path / "merged")
    DatasetWriter(one, fields, num_workers=1).append([(b"one",), (b"two",)])
    for path in (tmp_path / "merged", one):
        beton = open_beton(path)
        assert len(set(beton.allocations["ptr"].tolist())) == len(texts)
        assert structure_notes(beton) == verify_structure(beton) == []
        assert [text for text, _ in contents(path)] == texts


def test_a_file_of_ffcv_gets_checksums_and_facts(tmp_path):
    path = tmp_path / "plain.beton"
    path.write_bytes(gzip.decompress((FIXTURES / "ffcv_mixed.beton.gz").read_bytes()))
    merge_files([path, path], tmp_path / "b.beton")
    plain, merged = open_beton(path), open_beton(tmp_path / "b.beton")
    assert merged.num_samples == 2 * plain.num_samples and verify_structure(merged) == []
    for name in plain.field_names:
        if plain.lengths(name).any():
            assert merged.lengths(name).tolist() == 2 * plain.lengths(name).tolist()
            for row, at in enumerate(merged.offsets(name).tolist()):
                size, old = int(merged.lengths(name)[row]), int(plain.offsets(name)[row % plain.num_samples])
                assert merged.data[at : at + size].tobytes() == plain.data[old : old + size].tobytes()
        else:
            assert merged.column(name).tolist() == 2 * plain.column(name).tolist()
    jpegs = merged.column("sixteen_chars_ok")["mode"] == 0
    assert jpegs.any() and set(merged.facts("sixteen_chars_ok")["encoding"][jpegs].tolist()) == {0xC0}
    with pytest.raises(PipelineError, match="their fields differ"):
        merge_files([path, write(tmp_path / "x", [(1,)], fields={"a": IntField()})], tmp_path / "c")


# ---- what does not belong together


def test_other_fields_are_refused(tmp_path):
    def one(name, field, value):
        return write(tmp_path / f"{name}-{type(field).__name__}", [(value,)], fields={name: field})

    a = one("a", IntField(), 1)
    for other in (one("b", IntField(), 1), one("a", FloatField(), 1.0)):
        with pytest.raises(PipelineError, match=r"cannot be joined, their fields differ: . \(type"):
            merge_files([a, other], tmp_path / "out")
    three, two = (
        write(tmp_path / f"n{n}", [(np.zeros(n),)], fields={"v": NDArrayField("f8", n)}) for n in (3, 2)
    )
    with pytest.raises(PipelineError, match="the dtype or shape"):
        merge_files([three, two], tmp_path / "out")
    with pytest.raises(PipelineError, match="fields differ"):
        DatasetWriter(three, {"v": NDArrayField("f8", 2)}).append([(np.zeros(2),)])
    custom = write(tmp_path / "custom", [(b"a",)], fields={"two": Two()})
    with pytest.raises(PipelineError, match=r"fields differ: two \(type 255\); a \(type 1\)"):
        DatasetWriter(custom, {"a": IntField()}).append([(1,)])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("one", "two", "says"),
    [
        (["ant", "bee"], ["ant", "bug"], r"class 1 is 'bee' and 'bug'"),
        (["ant"], ["ant", "bee"], r"\(1 and 2\)"),
    ],
)
def test_class_names_must_agree(tmp_path, one, two, says):
    fields = {"a": IntField()}
    a = write(tmp_path / "a", [(0,)], fields=fields, names=one)
    b = write(tmp_path / "b", [(0,)], fields=fields, names=two)
    none = write(tmp_path / "c", [(0,)], fields=fields)
    with pytest.raises(PipelineError, match=f"class names differ .*{says}"):
        merge_files([a, none, b], tmp_path / "out")
    with pytest.raises(PipelineError, match="class names differ"):
        DatasetWriter(a, fields, class_names=two).append([(1,)])
    merge_files([none, b], tmp_path / "out")
    assert open_beton(tmp_path / "out").class_names == tuple(two)


def test_our_own_fields_need_no_class(tmp_path):
    fields = {"mask": MaskField(), "boxes": RaggedField("f4", (4,)), "grey": ImageField(1, "uint16")}
    samples = [
        (np.full((5, 6), k, np.uint8), np.full((k, 4), k, "f4"), np.full((4, 3), k, np.uint16))
        for k in range(5)
    ]
    one, two = (write(tmp_path / f"{k}", samples[k : k + 3], fields=fields) for k in (0, 2))
    merge_files([one, two], tmp_path / "merged")
    records = {name: field.metadata_type for name, field in fields.items()}
    beton = open_beton(tmp_path / "merged", records)
    for number, name in enumerate(fields):
        (pointer,) = fields[name].pointers
        offsets, lengths = beton.offsets(name, pointer), beton.lengths(name, pointer)
        found = [beton.data[at : at + n].tobytes() for at, n in zip(offsets, lengths, strict=True)]
        assert found == [samples[k][number].tobytes() for k in (0, 1, 2, 2, 3, 4)]


def test_class_names_are_compared_before_a_sample_is_appended(tmp_path):
    class Untouched(list):
        def __getitem__(self, k):
            raise AssertionError

    path = write(tmp_path / "a", [(0,)], fields={"a": IntField()}, names=["cat"])
    writer = DatasetWriter(path, {"a": IntField()}, num_workers=1, class_names=["dog"])
    with pytest.raises(PipelineError, match="class 0 is 'cat' and 'dog'"):
        writer.append(Untouched([(1,)]))


def test_source_ids_of_some_files_are_empty_for_the_others(tmp_path):
    fields = {"a": IntField()}
    a = write(tmp_path / "a", [(0,)], fields=fields, sources=["x"])
    b = write(tmp_path / "b", [(0,), (1,)], fields=fields)
    merge_files([b, a, b], tmp_path / "out")
    assert list(open_beton(tmp_path / "out").source_ids) == ["", "", "x", "", ""]


def test_a_custom_field_must_name_its_pointers(tmp_path):
    path = write(tmp_path / "a", [(b"abc",)], fields={"two": Silent()})
    with pytest.raises(
        PipelineError, match=r"field 'two': Silent must name the members .* pointers = \(...\)"
    ):
        merge_files([path, path], tmp_path / "b", custom_fields={"two": Silent})
    with pytest.raises(PipelineError, match=r"field 'two' has a custom type .* pass its class") as raised:
        merge_files([path, path], tmp_path / "b")
    assert raised.value.field == "two"
    with pytest.raises(PipelineError, match="has no field 'too'; its fields are 'two'"):
        merge_files([path, path], tmp_path / "b", custom_fields={"two": Two, "too": Two})
    assert os.listdir(tmp_path) == ["a"]


def test_files_that_cannot_be_trusted_are_refused(tmp_path):
    path = tmp_path / "plain.beton"
    path.write_bytes(gzip.decompress((FIXTURES / "ffcv_mixed.beton.gz").read_bytes()) + bytes(4800))
    with pytest.raises(FormatError, match=r"200 entries, .* belong to no record.*`ffcv-gpu verify`"):
        merge_files([path], tmp_path / "b")
    with pytest.raises(PipelineError, match=r"paths must be a list of paths, not 'a\.beton'"):
        merge_files("a.beton", tmp_path / "b.beton")
    with pytest.raises(PipelineError, match="nothing to merge"):
        merge_files([], tmp_path / "b")
    good = write(tmp_path / "good", [(1,)], fields={"a": IntField()})
    with pytest.raises(WriteError, match="No such file or directory"):
        merge_files([good], tmp_path / "no folder" / "b")


@pytest.mark.parametrize(("name", "says"), [("none", "No such file or directory"), ("folder", "directory")])
def test_a_file_that_is_not_there_is_named(tmp_path, name, says):
    (tmp_path / "folder").mkdir()
    good = write(tmp_path / "good", [(1,)], fields={"a": IntField()})
    with pytest.raises(ReadError, match=f"^cannot read {tmp_path}/{name}: .*{says}$"):
        merge_files([good, tmp_path / name], tmp_path / "b")
    with pytest.raises(ReadError, match=f"{tmp_path}/none to append to; from_indexed_dataset writes a new"):
        DatasetWriter(tmp_path / "none", {"a": IntField()}).append([(1,)])
    assert sorted(os.listdir(tmp_path)) == ["folder", "good"]


def test_what_was_skipped_is_still_known(tmp_path):
    fields = {"a": IntField()}
    a = write(tmp_path / "a", [(0,), ("x",), (2,)], fields=fields, on_error="skip")
    report = DatasetWriter(a, fields, on_error="skip").append([(3,), ("y",)])
    assert [skip.position for skip in report.skipped] == [1]
    beton = open_beton(a)
    assert beton.column("a").tolist() == [0, 2, 3]
    assert [skip.position for skip in beton.skipped] == [1, 4]  # of 0, x, 2, 3, y
    merge_files([a, a], tmp_path / "b")
    assert [skip.position for skip in open_beton(tmp_path / "b").skipped] == [1, 4, 6, 9]


def test_a_file_that_is_cut_while_it_is_copied(tmp_path, samples, monkeypatch):
    """The system reads the mapped file during a write, so this is an error and does not kill the process."""
    path = write(tmp_path / "a", samples)
    real = BetonBuilder.add_file

    def add_file(self, file):
        os.truncate(path, MIN_PAGE_SIZE + (1 << 16))
        real(self, file)

    monkeypatch.setattr(BetonBuilder, "add_file", add_file)
    with pytest.raises(
        ReadError, match=r"a: cannot read bytes \d+ to \d+: a bad sector, or the file was truncated"
    ):
        merge_files([path], tmp_path / "b", custom_fields={"two": Two})
    assert os.listdir(tmp_path) == ["a"]
