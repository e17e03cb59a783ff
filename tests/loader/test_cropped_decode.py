"""Loaders whose decoder reads only what is cropped: the same batches, and when it is taken."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import simplejpeg

from ffcv_gpu.dataset.dataset import Dataset
from ffcv_gpu.errors import BackendUnavailable
from ffcv_gpu.fields import RGBImageField
from ffcv_gpu.fields.decoders import (
    CenterCropRGBImageDecoder,
    RandomResizedCropRGBImageDecoder,
    SimpleRGBImageDecoder,
)
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.loader.needed import needed_boxes
from ffcv_gpu.pipeline import PipelineSpec
from ffcv_gpu.plan import Planner
from ffcv_gpu.transforms import RandomHorizontalFlip, ToTensor, ToTorchImage
from ffcv_gpu.writer import DatasetWriter
from tests.mixed_file import kept

N = 24
needs_library = pytest.mark.usefixtures("turbojpeg3")


@pytest.fixture(scope="module")
def path(tmp_path_factory, make_photo):
    """JPEGs of all subsamplings; every fourth image is raw."""
    path = tmp_path_factory.mktemp("cropped") / "photos.beton"
    samples = []
    for i in range(N):
        photo = make_photo(90 + i, 130 - i, i)
        kind = ("420", "422", "444")[i % 3]
        samples.append((simplejpeg.encode_jpeg(photo, 90, colorsubsampling=kind) if i % 4 else photo,))
    DatasetWriter(path, {"image": RGBImageField()}, num_workers=1, progress=False).from_indexed_dataset(
        samples
    )
    return path


@pytest.fixture(scope="module")
def one_size(tmp_path_factory, make_photo):
    """JPEGs of 40 x 56 pixels."""
    path = tmp_path_factory.mktemp("whole") / "photos.beton"
    samples = [(simplejpeg.encode_jpeg(make_photo(40, 56, i), 90),) for i in range(N)]
    DatasetWriter(path, {"image": RGBImageField()}, num_workers=1, progress=False).from_indexed_dataset(
        samples
    )
    return path


def cropped(size=32, **options):
    decoder = RandomResizedCropRGBImageDecoder((size, size), **options)
    return [decoder, RandomHorizontalFlip(), ToTensor(), ToTorchImage()]


def epochs(path, pipelines, backend, count=2, **options):
    settings = {"order": OrderOption.RANDOM, "seed": 3, "num_workers": 2, "drop_last": False, **options}
    with Loader(path, 7, pipelines=pipelines, jpeg_backend=backend, **settings) as loader:
        made = [[np.asarray(part).copy() for part in batch] for _ in range(count) for batch in loader]
        return made, loader.stats().counts, loader.explain()


def assert_equal(first, second):
    for one, other in zip(first, second, strict=True):
        for a, b in zip(one, other, strict=True):
            assert np.array_equal(a, b)


@needs_library
@pytest.mark.parametrize("dct", ["accurate", "fast"])
def test_batches_are_those_of_the_whole_decode(path, dct):
    whole, _, _ = epochs(path, {"image": cropped()}, "turbo", dct=dct)
    made, counts, text = epochs(path, {"image": cropped()}, None, dct=dct)
    assert_equal(made, whole)
    assert counts["jpeg: turbo3"] == 2 * N * 3 // 4
    assert "decoded by turbo3 (crops only)" in text


@needs_library
def test_views_are_decoded_once_in_what_holds_both_crops(path):
    second = cropped(24, scale=(0.05, 0.1))
    pipelines = {"image": cropped(), "view": PipelineSpec("image", second[0], second[1:])}
    whole, _, _ = epochs(path, pipelines, "turbo")
    made, counts, _ = epochs(path, pipelines, None)
    assert_equal(made, whole)
    assert counts["jpeg: turbo3"] == 2 * N * 3 // 4


@needs_library
def test_whole_images_are_decoded_whole(one_size):
    whole = {"image": [SimpleRGBImageDecoder()]}
    expected, counts, _ = epochs(one_size, whole, "turbo")
    assert counts == {"jpeg: turbo": 2 * N}
    made, counts, text = epochs(one_size, whole, None)
    assert_equal(made, expected)
    assert counts == {"jpeg: turbo2": 2 * N} and "decoded by turbo2;" in text
    made, counts, text = epochs(one_size, whole, "turbo3")
    assert_equal(made, expected)
    assert counts["jpeg: turbo3"] == 2 * N and "decoded by turbo3;" in text
    both = {**whole, "crop": PipelineSpec("image", cropped()[0], cropped()[1:])}
    made, counts, text = epochs(one_size, both, "turbo3")
    assert_equal([batch[:1] for batch in made], expected)
    assert "crops only" not in text


@needs_library
@pytest.mark.parametrize(("backend", "share"), [(None, 0.5), ("turbo3", 0.0)], ids=["shared", "alone"])
def test_for_a_gpu_the_cpu_decodes_crops_too(gpu, path, backend, share):
    settings = {"order": OrderOption.RANDOM, "seed": 3, "num_workers": 2, "drop_last": False}
    settings |= {"pipelines": {"image": cropped()}}
    expected = list(Loader(path, 7, jpeg_backend="turbo", **settings))
    fake = gpu()
    loader = Loader(path, 7, device="cuda:0", jpeg_backend=backend, cpu_share=share, **settings)
    assert_equal(kept(fake, loader), expected)
    counts = loader.stats().counts
    assert counts["jpeg: turbo3"] + counts.get("jpeg: engine", 0) == N * 3 // 4
    assert ("jpeg: engine" in counts) == (backend is None)
    assert "by turbo3 (crops only)" in loader.explain()


@needs_library
def test_a_file_without_checksums_is_cropped_on_request_only(path, monkeypatch):
    real = Dataset.payloads

    def unsealed(self, name):
        found = real(self, name)
        return None if found is None else replace(found, checksums=None)

    expected, counts, text = epochs(path, {"image": cropped()}, None)
    assert counts["jpeg: turbo3"]
    monkeypatch.setattr(Dataset, "payloads", unsealed)
    made, counts, text = epochs(path, {"image": cropped()}, None)
    assert "jpeg: turbo3" not in counts and "decoded by turbo2;" in text
    assert_equal(made, expected)
    made, counts, _ = epochs(path, {"image": cropped()}, "turbo")
    assert counts["jpeg: turbo"] and "jpeg: turbo2" not in counts
    assert_equal(made, expected)
    made, counts, _ = epochs(path, {"image": cropped()}, "turbo3")
    assert counts["jpeg: turbo3"] and "jpeg: turbo2" not in counts
    assert_equal(made, expected)


def test_asked_for_and_missing_is_refused_when_the_loader_is_made(one_size, no_turbojpeg):
    pipelines = {"image": [CenterCropRGBImageDecoder((8, 8), 1.0)]}
    with pytest.raises(BackendUnavailable, match=r"libturbojpeg 3\.0 or newer not found.*conda install"):
        Loader(one_size, 4, pipelines=pipelines, jpeg_backend="turbo3")
    with pytest.raises(BackendUnavailable, match=r"libturbojpeg 2\.0 or newer not found.*apt install"):
        Loader(one_size, 4, pipelines=pipelines, jpeg_backend="turbo2")
    _, counts, text = epochs(one_size, pipelines, None)
    assert counts["jpeg: turbo"] == 2 * N and "decoded by turbo;" in text


def test_what_is_needed_holds_every_crop_and_no_more(path):
    second = cropped(24, scale=(0.05, 0.1))
    pipelines = {"image": cropped(), "view": PipelineSpec("image", second[0], second[1:])}
    loader = Loader(path, 4, pipelines=pipelines, seed=1)
    programs, images = tuple(loader.code.values()), loader.dataset.payloads("image")
    plan = Planner(programs, {"image": images}, seed=1, epoch=0).plan(0, np.arange(N))
    boxes = needed_boxes(plan, programs)
    one, other = (plan.stages[name][0].boxes for name in ("image", "view"))
    for row, a, b in zip(boxes.tolist(), one.tolist(), other.tolist(), strict=True):
        y, x = min(a[0], b[0]), min(a[1], b[1])
        assert row == [y, x, max(a[0] + a[2], b[0] + b[2]) - y, max(a[1] + a[3], b[1] + b[3]) - x]
    assert np.array_equal(needed_boxes(plan, programs[:1]), one)
    assert needed_boxes(plan, ()) is None
