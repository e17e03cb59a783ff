"""FFCV itself reads what we write: every field, every mode, its three orders, both caches, equal values.

Needs FFCV 1.0.2 in an environment of its own, whose Python FFCV_GPU_FFCV_PYTHON names.
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
from ffcv_gpu.format import MIN_PAGE_SIZE, open_beton
from ffcv_gpu.writer import DatasetWriter, merge_files

pytestmark = pytest.mark.timeout(1800)

N = 22
FIELDS = {
    "passed": RGBImageField(),
    "raw": RGBImageField("raw"),
    "encoded": RGBImageField("jpg"),
    "mixed": RGBImageField("proportion"),
    "label": IntField(),
    "score": FloatField(),
    "array": NDArrayField(np.dtype("<f4"), (3, 5)),
    "tensor": TorchTensorField(torch.int64, (7,)),
    "doc": JSONField(),
    "text": BytesField(),
}
ORDERS = ("SEQUENTIAL", "RANDOM", "QUASI_RANDOM")


@pytest.fixture(scope="module")
def ffcv_python():
    python = os.environ.get("FFCV_GPU_FFCV_PYTHON", "")
    if not python:
        pytest.skip("FFCV_GPU_FFCV_PYTHON names no Python with FFCV 1.0.2")
    done = subprocess.run([python, "-c", "import ffcv.loader"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{python} cannot import ffcv: {done.stderr.splitlines()[-1]}")
    return python


@pytest.fixture(scope="module")
def samples(make_jpeg, make_photo):
    kinds = [{}, {"mode": "L"}, {"subsampling": "4:4:4"}, {"subsampling": "4:2:2"}, {"progressive": True},
             {"restart_marker_rows": 1}, {"quality": 100}, {"keep_rgb": True}, {"mode": "CMYK"}]  # fmt: skip
    photos = [make_photo(150, 200, k) for k in range(N)]
    rows = []
    for k in range(N):
        jpeg = make_jpeg(150, 200, k, **kinds[k % len(kinds)])
        text = b"t" * (k % 3 * 7)
        array = np.random.default_rng(k).normal(size=(3, 5)).astype(np.float32)
        rows.append(
            (jpeg, photos[k], photos[k], photos[k], k, k / 7, array, torch.arange(7) * k, {"k": k}, text)
        )
    return rows


def put_together(folder, fields, photos):
    """Write the photos with all that FFCV knows nothing of: names, sources, a skipped one, a merge."""
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
    DatasetWriter(folder / "constant.beton", FIELDS, MIN_PAGE_SIZE, 2).from_indexed_dataset(samples, None, 3)
    photos = [(make_jpeg(70 + 5 * k, 90 + 3 * k, k, progressive=k % 4 == 1), k) for k in range(N)]
    fields = {"photo": RGBImageField(max_resolution=130), "label": IntField()}
    put_together(folder, fields, photos)
    script = Path(__file__).with_name("read_with_ffcv.py")
    files = [folder / name for name in ("constant.beton", "photos.beton", "out.npz")]
    done = subprocess.run([ffcv_python, script, *files], capture_output=True, text=True, timeout=1700)
    assert done.returncode == 0, done.stderr
    with np.load(files[2]) as found:
        return folder, dict(found)


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
        for field in ("passed", "encoded", "mixed"):
            expected = stored_pixels(folder, "constant.beton", field, k)
            np.testing.assert_array_equal(seen[field][row], expected, err_msg=f"{field} {k}")


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
