"""Each filter against the library it is named after, through the kernel, on hard images and odd sizes."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ffcv_gpu.kernels.codes import (
    RESAMPLE_ANTIALIAS,
    RESAMPLE_AREA,
    RESAMPLE_NEAREST,
    RESAMPLE_NONE,
    max_taps,
)
from tests.nearest import nearest_by_pillow

Pixels = npt.NDArray[np.uint8]
Composer = Callable[..., npt.NDArray[Any]]
ANY = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
CHANNELS = st.sampled_from([1, 2, 3, 4])
side = st.one_of(st.integers(1, 9), st.integers(1, 130))

# (crop), (output): both shrink, both grow, one of each, whole ratios, one pixel, one row, long and thin
SIZES = [
    ((375, 500), (224, 224)), ((120, 90), (224, 224)), ((300, 100), (224, 224)), ((100, 300), (224, 224)),
    ((448, 448), (224, 224)), ((672, 448), (224, 224)), ((56, 112), (224, 224)), ((224, 224), (224, 224)),
    ((1, 1), (224, 224)), ((1, 1), (1, 1)), ((500, 375), (1, 1)), ((1, 500), (7, 224)), ((500, 1), (224, 7)),
    ((223, 225), (224, 224)), ((2, 3), (3, 2)), ((1031, 1537), (224, 160)), ((16, 4000), (4, 9)),
    ((144, 288), (224, 224)), ((36, 204), (224, 224)), ((224, 500), (224, 224)), ((7, 2001), (224, 3)),
]  # fmt: skip


def noise(height: int, width: int, channels: int, seed: int = 0) -> Pixels:
    """Random black and white: every misplaced or misweighed pixel shows."""
    rng = np.random.default_rng([height, width, channels, seed])
    return rng.integers(0, 2, (height, width, channels), dtype=np.uint8) * np.uint8(255)


def distance(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def by_opencv(crop: Pixels, size: tuple[int, int], interpolation: int) -> Pixels:
    resized = cv2.resize(np.ascontiguousarray(crop), size[::-1], interpolation=interpolation)
    return resized.reshape(*size, crop.shape[2])


def by_pillow(crop: Pixels, size: tuple[int, int]) -> Pixels:
    planes = [Image.fromarray(np.ascontiguousarray(crop[..., c])) for c in range(crop.shape[2])]
    resized = [np.asarray(plane.resize(size[::-1], Image.Resampling.BILINEAR)) for plane in planes]
    return np.stack(resized, axis=-1)


def by_torchvision(torchvision: ModuleType, crop: Pixels, size: tuple[int, int]) -> Pixels:
    import torch

    # plane by plane: torch 2.13 takes an image one pixel wide for a channels-last one and fails an assertion
    resize = torchvision.transforms.v2.functional.resize
    planes = [torch.from_numpy(np.ascontiguousarray(crop[..., c])[None]) for c in range(crop.shape[2])]
    resized = [resize(plane, list(size), antialias=True).numpy()[0] for plane in planes]
    return np.stack(resized, axis=-1)


@st.composite
def crops(draw: st.DrawFn) -> tuple[Pixels, tuple[int, int, int, int], tuple[int, int]]:
    height, width = draw(side), draw(side)
    h, w = draw(st.integers(1, height)), draw(st.integers(1, width))
    y, x = draw(st.integers(0, height - h)), draw(st.integers(0, width - w))
    image = noise(height, width, draw(CHANNELS), draw(st.integers(0, 9)))
    return image, (y, x, h, w), (draw(side), draw(side))


def cut(image: Pixels, box: tuple[int, int, int, int]) -> Pixels:
    y, x, h, w = box
    return image[y : y + h, x : x + w]


@ANY
@given(crops())
def test_area_is_opencvs(compose_batch: Composer, case: Any) -> None:
    image, box, size = case
    got = compose_batch([image], [box], size, RESAMPLE_AREA)[0]
    assert distance(got, by_opencv(cut(image, box), size, cv2.INTER_AREA)) <= 1


@ANY
@given(crops())
def test_antialias_is_pillows_on_the_crop(compose_batch: Composer, case: Any) -> None:
    image, box, size = case
    got = compose_batch([image], [box], size, RESAMPLE_ANTIALIAS)[0]
    assert distance(got, by_pillow(cut(image, box), size)) <= 1


@ANY
@given(crops())
def test_antialias_is_torchvisions(compose_batch: Composer, torchvision: ModuleType, case: Any) -> None:
    image, box, size = case
    got = compose_batch([image], [box], size, RESAMPLE_ANTIALIAS)[0]
    assert distance(got, by_torchvision(torchvision, cut(image, box), size)) <= 1


@ANY
@given(crops())
def test_nearest_is_pillows(compose_batch: Composer, case: Any) -> None:
    image, box, size = case
    got = compose_batch([image], [box], size, RESAMPLE_NEAREST)[0]
    assert np.array_equal(got, nearest_by_pillow(cut(image, box), *size))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("crop", "size"), SIZES)
def test_sizes_that_matter(
    compose_batch: Composer, crop: tuple[int, int], size: tuple[int, int], channels: int
) -> None:
    image = noise(*crop, channels)
    box = [(0, 0, *crop)]
    area = compose_batch([image], box, size, RESAMPLE_AREA)[0]
    assert distance(area, by_opencv(image, size, cv2.INTER_AREA)) <= 1
    antialias = compose_batch([image], box, size, RESAMPLE_ANTIALIAS)[0]
    assert distance(antialias, by_pillow(image, size)) <= 1


@pytest.mark.parametrize("size", [(224, 224), (160, 96), (32, 500)])
def test_area_of_every_width_is_opencvs(compose_batch: Composer, size: tuple[int, int]) -> None:
    """OpenCV's float64 positions are now and then a whole pixel off; so are ours, at the same places."""
    widths = range(1, 520, 3)
    images = [noise(int(w * size[0] / size[1]) + 1, w, 1) for w in widths]
    got = compose_batch(images, [(0, 0, *image.shape[:2]) for image in images], size, RESAMPLE_AREA)
    for image, result in zip(images, got, strict=True):
        assert distance(result, by_opencv(image, size, cv2.INTER_AREA)) <= 1, image.shape


def test_photographs(compose_batch: Composer, photos: tuple[Pixels, ...]) -> None:
    """On real images the mean error is rounding alone: far below half a grey level."""
    boxes = [(3, 5, photo.shape[0] - 10, photo.shape[1] - 20) for photo in photos]
    got = compose_batch(photos, boxes, (224, 224), RESAMPLE_AREA)
    for photo, box, result in zip(photos, boxes, got, strict=True):
        expected = by_opencv(cut(photo, box), (224, 224), cv2.INTER_AREA)
        assert distance(result, expected) <= 1
        assert abs(result.astype(float) - expected).mean() < 0.02


@pytest.mark.parametrize("resample", [RESAMPLE_AREA, RESAMPLE_ANTIALIAS, RESAMPLE_NEAREST])
@pytest.mark.parametrize("value", [0, 1, 128, 254, 255])
def test_a_plain_image_stays_plain(compose_batch: Composer, resample: int, value: int) -> None:
    for crop, size in (((375, 500), (224, 224)), ((91, 77), (224, 224)), ((1999, 60), (90, 111))):
        image = np.full((*crop, 3), value, np.uint8)
        assert (compose_batch([image], [(0, 0, *crop)], size, resample) == value).all()


@pytest.mark.parametrize("resample", [RESAMPLE_NONE, RESAMPLE_AREA, RESAMPLE_ANTIALIAS, RESAMPLE_NEAREST])
def test_equal_sizes_copy(compose_batch: Composer, resample: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    got = compose_batch([image], [(4, 6, 30, 50)], (30, 50), resample)[0]
    assert np.array_equal(got, image[4:34, 6:56])


@given(st.integers(1, 5000), st.integers(1, 500))
def test_max_taps_bounds_both_filters(size: int, out_size: int) -> None:
    """The scratch memory is cut by this bound; taps counted here with fractions."""
    from ffcv_gpu.kernels import resample

    most = max_taps(size, out_size)
    for i in {0, out_size // 3, out_size // 2, out_size - 1}:
        area = resample.area_end.py_func(i, size, out_size) - resample.area_start.py_func(i, size, out_size)
        first = resample.antialias_start.py_func(i, size, out_size)
        assert 1 <= area <= max(most, 1)
        assert 1 <= resample.antialias_end.py_func(i, size, out_size) - first <= most
