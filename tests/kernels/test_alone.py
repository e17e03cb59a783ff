"""The kernels without a dataset, beside OpenCV; the docstring's example runs."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from ffcv_gpu.kernels import alone
from ffcv_gpu.kernels.codes import RESAMPLE_NONE


def test_the_example_runs() -> None:
    done = doctest.testmod(alone)
    assert done.attempted > 0
    assert done.failed == 0


def test_beside_opencv(make_photo: Callable[..., npt.NDArray[np.uint8]]) -> None:
    photos = [make_photo(300, 400), make_photo(200, 150, 1)]
    boxes = [(10, 20, 280, 300), (0, 0, 200, 150)]
    got = alone.resized_crops(photos, boxes, (96, 112), mirrored=[False, True])
    for n, (photo, (y, x, h, w)) in enumerate(zip(photos, boxes, strict=True)):
        expected = cv2.resize(photo[y : y + h, x : x + w], (112, 96), interpolation=cv2.INTER_AREA)
        expected = expected[:, ::-1] if n else expected
        assert np.abs(got[n].astype(int) - expected).max() <= 1


def test_a_view_of_a_grey_image() -> None:
    image = np.arange(400, dtype=np.uint32).astype(np.uint8).reshape(20, 20, 1)[::2, ::2]
    got = alone.resized_crops([image], [(2, 3, 5, 6)], (5, 6), resample=RESAMPLE_NONE)
    assert np.array_equal(got[0], image[2:7, 3:9])


WRONG: dict[str, tuple[Any, Any]] = {
    "at least one": ([], np.zeros((0, 4))),
    "image 1 is": ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 1), np.uint8)], [(0, 0, 4, 4)] * 2),
    "outside its image": ([np.zeros((4, 4, 3), np.uint8)], [(0, 0, 5, 4)]),
    "the layout says": ([np.zeros((4, 4, 3), np.uint8)], [(0, 0, 4, 4)] * 2),
}


@pytest.mark.parametrize("message", WRONG)
def test_nonsense_is_refused(message: str) -> None:
    images, boxes = WRONG[message]
    with pytest.raises(ValueError, match=message):
        alone.resized_crops(images, boxes, (3, 3))


@pytest.mark.parametrize("size", [(0, 3), (3, 0), (-1, 3)])
def test_a_size_of_nothing_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1 x 1"):
        alone.resized_crops([np.zeros((4, 4, 3), np.uint8)], [(0, 0, 4, 4)], size)
