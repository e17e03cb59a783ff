"""Parquet files written by pyarrow in the layout of Hugging Face's image datasets."""

from __future__ import annotations

import json
import pickle

import pytest

from ffcv_gpu.convert import parquet
from ffcv_gpu.convert.parquet import ParquetImages
from ffcv_gpu.errors import PipelineError, ReadError, SampleError
from ffcv_gpu.fields import IntField, RGBImageField
from ffcv_gpu.format import MIN_PAGE_SIZE, open_beton
from ffcv_gpu.writer import DatasetWriter

pa = pytest.importorskip("pyarrow", reason="the extra 'parquet' is not installed")
pq = pytest.importorskip("pyarrow.parquet")

N = 23
FIELDS = {"image": RGBImageField(), "label": IntField()}


@pytest.fixture(scope="module")
def jpegs(make_jpeg):
    return [make_jpeg(40 + k, 50, k) for k in range(N)]


def table_of(jpegs, first, last, **more):
    images = [{"bytes": jpegs[k], "path": f"{k}.jpg"} for k in range(first, last)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"img": pa.array(images, kind), "label": pa.array(range(first, last), pa.int64())}
    return pa.table({**columns, **more})


@pytest.fixture(scope="module")
def files(jpegs, tmp_path_factory):
    """Two files of several row groups each."""
    folder = tmp_path_factory.mktemp("parquet")
    for name, first, last in (("0", 0, 15), ("1", 15, N)):
        pq.write_table(table_of(jpegs, first, last), folder / f"{name}.parquet", row_group_size=4)
    return [folder / "0.parquet", folder / "1.parquet"]


def test_rows_in_the_order_of_the_files(files, jpegs):
    dataset = ParquetImages(files)
    assert len(dataset) == N and (dataset.image, dataset.label) == ("img", "label")
    assert [dataset[k] for k in range(N)] == [(jpegs[k], k) for k in range(N)]
    assert dataset[N - 1] == (jpegs[-1], N - 1) and dataset[0] == (jpegs[0], 0)  # not in order, either
    assert dataset.classes is None and "23 images" in repr(dataset)
    assert pickle.loads(pickle.dumps(dataset))[7] == (jpegs[7], 7)
    for outside in (N, -1):
        with pytest.raises(IndexError, match="of 23"):
            dataset[outside]


@pytest.mark.parametrize("workers", [1, 3])
def test_written_as_they_are(files, jpegs, tmp_path, workers):
    path = tmp_path / "a.beton"
    writer = DatasetWriter(path, FIELDS, MIN_PAGE_SIZE, workers, progress=False)
    dataset = ParquetImages(files)
    assert dataset[3][1] == 3  # opened in this process already, before the workers are forked
    report = writer.from_indexed_dataset(dataset, chunksize=3)
    assert report.modes == {"jpeg pass-through": N}
    beton = open_beton(path)
    assert beton.column("label").tolist() == list(range(N))
    for k in range(N):
        begin = int(beton.offsets("image")[k])
        assert beton.data[begin : begin + int(beton.lengths("image")[k])].tobytes() == jpegs[k]


def test_a_column_of_plain_bytes_and_class_names(jpegs, tmp_path):
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"picture": pa.array(jpegs[:2], pa.binary()), "label": [1, 0]})
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "a.parquet")
    dataset = ParquetImages(str(tmp_path / "a.parquet"))
    assert dataset.classes == ("cat", "dog") and dataset[0] == (jpegs[0], 1)


def named(path, table, names):
    features = {"label": {"names": names, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


def test_files_whose_class_names_differ_are_refused(jpegs, files, tmp_path):
    one = named(tmp_path / "one.parquet", table_of(jpegs, 0, 2), ["cat", "dog"])
    same = named(tmp_path / "same.parquet", table_of(jpegs, 2, 4), ["cat", "dog"])
    other = named(tmp_path / "other.parquet", table_of(jpegs, 2, 4), ["dog", "cat"])
    assert ParquetImages([one, same]).classes == ("cat", "dog")
    assert ParquetImages([files[0], one]).classes == ("cat", "dog")
    with pytest.raises(PipelineError, match=r"class names of .*one.parquet and .*other.parquet differ"):
        ParquetImages([one, same, other])


@pytest.mark.parametrize("kind", ["binary", "large_binary", "binary_view"])
@pytest.mark.parametrize("in_struct", [False, True])
def test_kinds_of_bytes(jpegs, tmp_path, kind, in_struct):
    images = pa.array(jpegs[:4], getattr(pa, kind)())
    if in_struct:
        images = pa.StructArray.from_arrays([images, pa.nulls(4, pa.string())], ["bytes", "path"])
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": images, "label": [0, 1, 2, 3]}), path)
    dataset = ParquetImages(path)
    assert [dataset[k] for k in range(4)] == [(jpegs[k], k) for k in range(4)]


def test_columns_that_cannot_be_told_apart(jpegs, tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(table_of(jpegs, 0, 3, coarse=pa.array([7, 8, 9])), path)
    assert ParquetImages(path).label == "label"
    assert ParquetImages(path, label="coarse")[1] == (jpegs[1], 8)
    with pytest.raises(PipelineError, match=r"no column 'img' of labels; .* are img .*label \(int64\)"):
        ParquetImages(path, label="img")
    pq.write_table(table_of(jpegs, 0, 3, mask=pa.array(jpegs[:3], pa.binary())).drop(["label"]), path)
    with pytest.raises(PipelineError, match=r"which column holds the labels\? set label="):
        ParquetImages(path)


def test_all_files_have_the_columns(files, jpegs, tmp_path):
    """Asked for at once: they are read when thousands of samples have been written."""
    pq.write_table(table_of(jpegs, 0, 2).rename_columns(["image", "label"]), tmp_path / "a.parquet")
    with pytest.raises(PipelineError, match=r"a.parquet: no column 'img' of images; the columns are image "):
        ParquetImages([*files, tmp_path / "a.parquet"])
    texts = pa.table({"img": pa.array(["a"]), "label": pa.array([1])})
    pq.write_table(texts, tmp_path / "b.parquet")
    with pytest.raises(PipelineError, match=r"b.parquet: no column 'img' of images; .* are img \(string"):
        ParquetImages([*files, tmp_path / "b.parquet"])


def test_what_cannot_be_read(jpegs, tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(ReadError, match=r"cannot read .*a.parquet' as a parquet file"):
        ParquetImages(tmp_path / "a.parquet")
    with pytest.raises(ReadError, match="no parquet files"):
        ParquetImages([])
    table = table_of(jpegs, 0, 2)
    empty = pa.array([{"bytes": None, "path": "elsewhere.jpg"}], table.column("img").type)
    table = pa.concat_tables([table, pa.table({"img": empty, "label": pa.array([2], pa.int64())})])
    pq.write_table(table, tmp_path / "b.parquet")
    with pytest.raises(
        SampleError, match=r"dataset\[5\].*b.parquet, row 2 of row group 0: column 'img' is null"
    ):
        DatasetWriter(tmp_path / "b.beton", FIELDS, num_workers=1).from_indexed_dataset(
            ParquetImages([tmp_path / "b.parquet"] * 2), indices=[5]
        )


def test_a_damaged_row_group_is_named(jpegs, tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(table_of(jpegs, 0, 6), path, row_group_size=3)
    content = bytearray(path.read_bytes())
    begin = pq.ParquetFile(path).metadata.row_group(1).column(0)
    start = begin.dictionary_page_offset or begin.data_page_offset
    content[start : start + 40] = bytes(40)
    path.write_bytes(content)
    dataset = ParquetImages(path)
    assert dataset[2] == (jpegs[2], 2)
    with pytest.raises(ReadError, match=r"cannot read row group 1 of '.*a.parquet': "):
        dataset[3]


def test_without_pyarrow_it_says_what_to_install(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(PipelineError, match=r"pip install 'ffcv-gpu\[parquet\]'"):
        ParquetImages(tmp_path / "a.parquet")


def test_a_row_group_in_pieces(files, jpegs, monkeypatch):
    monkeypatch.setattr(parquet, "PIECE_ROWS", 3)
    dataset = ParquetImages(files)
    assert [dataset[k] for k in range(N)] == [(jpegs[k], k) for k in range(N)]
    assert dataset._group(0)[0].num_chunks == 2


@pytest.mark.long
@pytest.mark.parametrize("in_struct", [False, True])
def test_a_row_group_of_more_than_an_arrow_array_holds(tmp_path, in_struct):
    """One of 2.1 GiB, as ``DataFrame.to_parquet`` makes of 20,000 photos: arrays of binary end at 2 GiB."""
    images = pa.array([b"\xff\xd8\xff" + bytes(1 << 26)], pa.binary())
    if in_struct:
        images = pa.StructArray.from_arrays([images, pa.nulls(1, pa.string())], ["bytes", "path"])
    table = pa.table({"image": pa.chunked_array([images] * 33), "label": range(33)})
    pq.write_table(table, tmp_path / "a.parquet")
    dataset = ParquetImages(tmp_path / "a.parquet")
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 1
    for k in (32, 0):
        data, label = dataset[k]
        assert label == k and len(data) == (1 << 26) + 3
