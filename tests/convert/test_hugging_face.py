"""Datasets made by Hugging Face's own library, offline."""

from __future__ import annotations

import json
import sys
import zipfile

import pytest

from ffcv_gpu.convert.hugging_face import HuggingFaceDataset
from ffcv_gpu.errors import PipelineError, SampleError
from ffcv_gpu.fields import FloatField, IntField, JSONField, RGBImageField
from ffcv_gpu.format import MIN_PAGE_SIZE, open_beton
from ffcv_gpu.writer import DatasetWriter

datasets = pytest.importorskip("datasets", reason="the extra 'test' is not installed")

N = 11
FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=["cat", "dog"]),
        "score": datasets.Value("float64"),
        "objects": {"boxes": datasets.Sequence(datasets.Sequence(datasets.Value("int64")))},
    }
)


@pytest.fixture(scope="module")
def jpegs(make_jpeg):
    return [make_jpeg(40 + k, 50, k) for k in range(N)]


@pytest.fixture(scope="module")
def split(jpegs):
    columns = {
        "image": [{"bytes": data, "path": f"{k}.jpg"} for k, data in enumerate(jpegs)],
        "label": [k % 2 for k in range(N)],
        "score": [k / 4 for k in range(N)],
        "objects": [{"boxes": [[k, 1, 2, 3]] * (k % 3)} for k in range(N)],
    }
    return datasets.Dataset.from_dict(columns, features=FEATURES)


def stored(path, field="image"):
    """Return each payload of a field as bytes."""
    beton = open_beton(path)
    begins, lengths = beton.offsets(field).tolist(), beton.lengths(field).tolist()
    return [beton.data[b : b + n].tobytes() for b, n in zip(begins, lengths, strict=True)]


@pytest.mark.parametrize("workers", [1, 3])
def test_files_are_stored_unchanged(split, jpegs, tmp_path, workers):
    dataset = HuggingFaceDataset(split)
    assert (
        len(dataset) == N and dataset.classes == ("cat", "dog") and "11 rows of image, label" in repr(dataset)
    )
    assert dataset[3]["label"] == 1  # opened in this process already, before the workers are forked
    path = tmp_path / "a.beton"
    fields = {"objects": JSONField(), "image": RGBImageField(), "label": IntField(), "score": FloatField()}
    writer = DatasetWriter(path, fields, MIN_PAGE_SIZE, workers, progress=False, class_names=dataset.classes)
    assert writer.from_indexed_dataset(dataset, chunksize=3).modes == {"jpeg pass-through": N}
    assert stored(path) == jpegs
    beton = open_beton(path)
    assert (
        beton.column("label").tolist() == split["label"][:]
        and beton.column("score").tolist() == split["score"][:]
    )
    assert [json.loads(text.rstrip(b"\0")) for text in stored(path, "objects")] == split["objects"][:]


def test_format_transforms_and_selections(split, jpegs):
    """Images and numbers arrive as stored, whatever the format; row numbers are those of the selection."""
    chosen = split.with_format("torch").select([4, 2])
    dataset = HuggingFaceDataset(chosen.with_transform(lambda rows: {"label": [0] * len(rows["label"])}))
    assert [dataset[k]["image"] for k in range(2)] == [jpegs[4], jpegs[2]]
    assert dataset[0] == {"image": jpegs[4], "label": 0, "score": 1.0, "objects": {"boxes": [[4, 1, 2, 3]]}}
    assert chosen.format["type"] == "torch"  # the caller's is as it was


@pytest.mark.parametrize("shards", [1, 3])
def test_streamed(split, jpegs, tmp_path, shards):
    """Rows come in the order of the shards, each read by another process."""
    stream = split.to_iterable_dataset(num_shards=3).with_format("numpy")
    parts = [HuggingFaceDataset(stream.shard(shards, k)) for k in range(shards)]
    assert parts[0].classes == ("cat", "dog") and "streamed rows of image, label" in repr(parts[0])
    fields = {"image": RGBImageField(), "score": FloatField()}
    writer = DatasetWriter(tmp_path / "a.beton", fields, MIN_PAGE_SIZE, shards, progress=False)
    assert writer.from_iterable(*parts).modes == {"jpeg pass-through": N}
    assert stored(tmp_path / "a.beton") == jpegs
    assert open_beton(tmp_path / "a.beton").column("score").tolist() == split["score"][:]


def test_images_that_are_files(jpegs, tmp_path):
    for k in range(3):
        (tmp_path / f"{k}.jpg").write_bytes(jpegs[k])
    paths = [str(tmp_path / f"{k}.jpg") for k in range(3)]
    split = datasets.Dataset.from_dict({"photo": paths}).cast_column("photo", datasets.Image())
    dataset = HuggingFaceDataset(split)
    assert dataset.classes is None and dataset[1] == {"photo": paths[1]}
    DatasetWriter(tmp_path / "a.beton", {"photo": RGBImageField()}, progress=False).from_indexed_dataset(
        dataset
    )
    assert stored(tmp_path / "a.beton", "photo") == jpegs[:3]


@pytest.mark.parametrize("streamed", [False, True])
def test_images_in_an_archive(jpegs, tmp_path, streamed):
    """As ``load_dataset("imagefolder", data_files="photos.zip")`` names them: nothing is unpacked."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for k in range(3):
            archive.writestr(f"photos/{k}.jpg", jpegs[k])
    paths = [f"zip://photos/{k}.jpg::{tmp_path / 'a.zip'}" for k in range(3)]
    split = datasets.Dataset.from_dict({"photo": paths}).cast_column("photo", datasets.Image())
    dataset = HuggingFaceDataset(split.to_iterable_dataset() if streamed else split)
    writer = DatasetWriter(tmp_path / "a.beton", {"photo": RGBImageField()}, num_workers=2, progress=False)
    if streamed:
        writer.from_iterable(dataset)
    else:
        assert dataset[2]["photo"] == jpegs[2]  # opened in this process before the workers are forked
        writer.from_indexed_dataset(dataset, chunksize=1)
    assert stored(tmp_path / "a.beton", "photo") == jpegs[:3]


def test_what_is_no_split(split, jpegs):
    with pytest.raises(PipelineError, match=r"give one split of the dataset, such as dataset\['train'\]"):
        HuggingFaceDataset(datasets.DatasetDict(train=split))
    streamed = HuggingFaceDataset(split.to_iterable_dataset())
    for use in (len, lambda dataset: dataset[0]):
        with pytest.raises(PipelineError, match=r"no row numbers: write it by DatasetWriter.from_iterable"):
            use(streamed)
    unknown = datasets.IterableDataset.from_generator(lambda: iter([{"a": 1}]))
    with pytest.raises(PipelineError, match="columns of this streamed dataset are not known"):
        HuggingFaceDataset(unknown)
    with pytest.raises(PipelineError, match=r"expected a datasets.Dataset, not list"):
        HuggingFaceDataset([(jpegs[0], 0)])


@pytest.mark.parametrize("streamed", [False, True])
def test_a_missing_image(split, jpegs, tmp_path, streamed):
    """It is refused or left out where a field needs it; a stream does not end there."""
    images = [None if k == 2 else {"bytes": jpegs[k], "path": None} for k in range(N)]
    rows = split.remove_columns("image").add_column("image", images).add_column("second", [None] * N)
    rows = rows.cast_column("image", datasets.Image()).cast_column("second", datasets.Image())
    dataset = HuggingFaceDataset(rows.to_iterable_dataset() if streamed else rows)

    def write(on_error):
        writer = DatasetWriter(
            tmp_path / "a.beton", {"image": RGBImageField()}, num_workers=1, progress=False, on_error=on_error
        )
        return (writer.from_iterable if streamed else writer.from_indexed_dataset)(dataset)

    with pytest.raises(SampleError, match=r"sample 2.*, field 'image': NoneType is not an image"):
        write("raise")
    assert [skip.position for skip in write("skip").skipped] == [2]
    assert stored(tmp_path / "a.beton") == jpegs[:2] + jpegs[3:]


def test_without_the_library_it_says_what_to_install(split, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(PipelineError, match="pip install datasets"):
        HuggingFaceDataset(split)
