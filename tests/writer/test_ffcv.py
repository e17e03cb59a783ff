"""FFCV itself reads what we write: every field, every mode, its three orders, both caches, equal values.

Needs FFCV 1.0.2 in a separate environment, whose Python FFCV_GPU_FFCV_PYTHON names;
``python -m benchmarks setup-peer ffcv`` creates one and prints that Python.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
import torch

from ffcv_gpu.fields import (
    BytesField,
    FloatField,
    IntField,
    JSONField,
    NDArrayField,
    RGBImageField,
    TorchTensorField,
)
from ffcv_gpu.format import MIN_PAGE_SIZE, ImageMode, open_beton
from ffcv_gpu.writer import DatasetWriter, merge_files
from ffcv_gpu.writer.shards import Shard

pytestmark = pytest.mark.timeout(1800)

N = 22
FIELDS = {
    "passed": RGBImageField(),
    "raw": RGBImageField("raw"),
    "encoded": RGBImageField("jpg"),
    "mixed": RGBImageField("proportion"),
    "smart": RGBImageField("smart", smart_threshold=80_000),
    "auto": RGBImageField("auto"),
    "label": IntField(),
    "score": FloatField(),
    "array": NDArrayField(np.dtype("<f4"), (3, 5)),
    "tensor": TorchTensorField(torch.int64, (7,)),
    "doc": JSONField(),
    "text": BytesField(),
}
IMAGES = ("passed", "raw", "encoded", "mixed", "smart", "auto")
SHARD_SAMPLES = 28_000
ORDERS = ("SEQUENTIAL", "RANDOM", "QUASI_RANDOM")


@pytest.fixture(scope="module")
def samples(make_jpeg, make_photo):
    kinds = [{}, {"mode": "L"}, {"subsampling": "4:4:4"}, {"subsampling": "4:2:2"}, {"progressive": True},
             {"restart_marker_rows": 1}, {"quality": 100}, {"keep_rgb": True}, {"mode": "CMYK"}]  # fmt: skip
    photos = [make_photo(150, 200, k) for k in range(N)]
    small = [make_photo(100, 140, k) for k in range(N)]
    rows = []
    for k in range(N):
        jpeg = make_jpeg(150, 200, k, **kinds[k % len(kinds)])
        text = b"t" * (k % 3 * 7)
        array = np.random.default_rng(k).normal(size=(3, 5)).astype(np.float32)
        images = (jpeg, photos[k], photos[k], photos[k], photos[k], small[k])
        rows.append((*images, k, k / 7, array, torch.arange(7) * k, {"k": k}, text))
    return rows


def put_together(folder, fields, photos):
    """Write the photos with everything that FFCV does not know: names, sources, a skipped one, a merge."""
    options = {"class_names": ["all"], "on_error": "skip", "progress": False}
    rows = [*photos[:9], (b"no image", 99), *photos[9:]]
    parts = [folder / "part.0", folder / "part.1"]
    for part, indices in ((parts[0], range(8)), (parts[1], range(14, 23))):
        writer = DatasetWriter(part, fields, MIN_PAGE_SIZE, 2, resume=True, **options)
        writer.from_indexed_dataset(rows, indices, 3, source_ids=str)
    writer = DatasetWriter(parts[0], fields, num_workers=1, **options)
    assert len(writer.append(rows, range(8, 14), source_ids=str).skipped) == 1
    merge_files(parts, folder / "photos.beton")


@pytest.fixture(scope="module")
def read(ffcv_python, samples, make_jpeg, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ffcv")
    writer = DatasetWriter(folder / "constant.beton", FIELDS, MIN_PAGE_SIZE, 2)
    parts = [writer.from_indexed_dataset(samples, None, 3, shard=(k, 3)).path for k in range(3)]
    merge_files(parts, folder / "constant.beton")
    photos = [(make_jpeg(70 + 5 * k, 90 + 3 * k, k, progressive=k % 4 == 1), k) for k in range(N)]
    fields = {"photo": RGBImageField(max_resolution=130), "label": IntField()}
    # 80 bytes per sample: 2.2 MB of metadata, more than fits before the first page. The samples come as
    # streams, as WebDataset's shards do.
    streams = {"data": NDArrayField(np.dtype("<f4"), (32,)), **{f"n{k}": IntField() for k in range(9)}}
    writer = DatasetWriter(folder / "shards.beton", streams, MIN_PAGE_SIZE, 2)
    # As the only shard of one conversion, which the file records.
    os.replace(writer._from_streams(["0", "1"], shard, Shard(0, 1)).path, folder / "shards.beton")
    put_together(folder, fields, photos)
    script = Path(__file__).with_name("read_with_ffcv.py")
    files = [folder / name for name in ("constant.beton", "photos.beton", "shards.beton", "out.npz")]
    done = subprocess.run([ffcv_python, script, *files], capture_output=True, text=True, timeout=1700)
    assert done.returncode == 0, done.stderr
    with np.load(files[3]) as found:
        return folder, dict(found)


def shard(name):
    half = SHARD_SAMPLES // 2
    for k in range(half):
        label = int(name) * half + k
        yield str(label), (np.full(32, label, np.float32), *[label] * 9)


def stored_pixels(folder, name, field, k):
    """What is stored, decoded as FFCV decodes: with libjpeg-turbo's fast DCT."""
    beton = open_beton(folder / name)
    offset, length = int(beton.offsets(field)[k]), int(beton.lengths(field)[k])
    data = beton.data[offset : offset + length].tobytes()
    row = beton.column(field)[k]
    if row["mode"] == 1:
        return np.frombuffer(data, np.uint8).reshape(row["height"], row["width"], 3)
    return simplejpeg.decode_jpeg(data, fastdct=True)


@pytest.mark.parametrize("os_cache", [True, False])
@pytest.mark.parametrize("order", ORDERS)
def test_every_field_has_equal_values(read, samples, order, os_cache):
    folder, found = read
    seen = {field: found[f"constant/{order}/{os_cache}/{field}"] for field in FIELDS}
    labels = seen["label"][:, 0]
    assert sorted(labels) == list(range(N))
    assert (labels.tolist() == list(range(N))) == (order == "SEQUENTIAL")
    for row, k in enumerate(labels):
        *_, score, array, tensor, doc, text = samples[k]
        assert seen["score"][row, 0] == score
        np.testing.assert_array_equal(seen["array"][row], array)
        np.testing.assert_array_equal(seen["tensor"][row], tensor.numpy())
        assert json.loads(seen["doc"][row].tobytes().split(b"\0")[0]) == doc
        # FFCV leaves the rest of a row as it was.
        assert seen["text"][row].tobytes()[: len(text)] == text
        np.testing.assert_array_equal(seen["raw"][row], samples[k][1])
        for field in ("passed", "encoded", "mixed", "smart", "auto"):
            expected = stored_pixels(folder, "constant.beton", field, k)
            np.testing.assert_array_equal(seen[field][row], expected, err_msg=f"{field} {k}")


def test_every_way_of_storing_was_tried(read):
    folder, _ = read
    modes = {f: set(open_beton(folder / "constant.beton").column(f)["mode"].tolist()) for f in IMAGES}
    # smart: 90,000 bytes are over its threshold; auto: 42,000 are not over its own
    jpeg, raw = {int(ImageMode.JPEG)}, {int(ImageMode.RAW)}
    assert modes == {
        "passed": jpeg,
        "raw": raw,
        "encoded": jpeg,
        "mixed": jpeg | raw,
        "smart": jpeg,
        "auto": raw,
    }


@pytest.mark.parametrize("os_cache", [True, False])
@pytest.mark.parametrize("order", ORDERS)
def test_samples_of_shards_whose_pages_were_moved(read, order, os_cache):
    folder, found = read
    beton = open_beton(folder / "shards.beton")
    assert beton.offsets("data")[0] > beton.offsets("data")[-1]
    labels = found[f"shards/{order}/{os_cache}/n0"][:, 0]
    assert sorted(labels) == list(range(SHARD_SAMPLES))
    seen = found[f"shards/{order}/{os_cache}/data"]
    for row, k in enumerate(labels):
        assert (seen[row] == np.float32(k)).all()


@pytest.mark.parametrize("os_cache", [True, False])
@pytest.mark.parametrize("order", ORDERS)
def test_photos_of_many_sizes(read, order, os_cache):
    folder, found = read
    labels = found[f"photos/{order}/{os_cache}/label"][:, 0]
    assert sorted(labels) == list(range(N))
    for row, k in enumerate(labels):
        pixels = stored_pixels(folder, "photos.beton", "photo", k)
        height, width, _ = pixels.shape
        side = min(height, width)
        y, x = (height - side) // 2, (width - side) // 2
        expected = cv2.resize(pixels[y : y + side, x : x + side], (64, 64), interpolation=cv2.INTER_AREA)
        seen = found[f"photos/{order}/{os_cache}/photo"][row]
        assert np.abs(seen.astype(int) - expected).max() <= 1
