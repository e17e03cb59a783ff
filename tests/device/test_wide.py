"""Images of 16 bits and of floats: at any byte of the file, into any layout of the batch."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ffcv_gpu.device import FusedLaunch, PixelSource
from ffcv_gpu.device.wide import compose_wide
from ffcv_gpu.kernels.codes import KIND_STORED, RESAMPLE_AREA, RESAMPLE_NEAREST, RESAMPLE_NONE
from tests.nearest import nearest_by_pillow

SIZES = [(20, 30), (33, 17), (8, 8)]
BOXES = [(3, 4, 12, 20), (0, 0, 33, 17), (1, 2, 5, 6)]
NOTHING = np.zeros((0, 2), np.int32), np.zeros((0, 4), np.uint32), 0, np.zeros((1, 256), np.uint16)


def launch(boxes, signs, frame, resample):
    height, width = frame
    geometry = [(y, 0 if y > 0 else height - 1, x, 0 if x > 0 else width - 1) for y, x in signs]
    arrays = np.array(boxes, np.int32), np.array(geometry, np.int32), np.zeros((len(boxes), 0), np.float32)
    return FusedLaunch(*arrays, *NOTHING, np.zeros(4, np.int64), frame, resample)


def by_opencv(image, height, width):
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).reshape(height, width, -1)


@pytest.mark.parametrize("way", [(RESAMPLE_AREA, by_opencv), (RESAMPLE_NEAREST, nearest_by_pillow)])
@pytest.mark.parametrize("planar", [True, False])
@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_crops_of_images_at_odd_bytes(dtype, channels, planar, way):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 60000, (*size, channels)).astype(dtype) for size in SIZES]
    stored, table = bytearray(b"?"), np.zeros((3, 8), np.int64)
    for row, image in enumerate(images):
        table[row, [0, 1, 4, 6, 7]] = KIND_STORED, len(stored), image.strides[0], *image.shape[:2]
        stored += image.astype(image.dtype.newbyteorder("<")).tobytes() + b"?" * (row + 2)
    memory = np.frombuffer(bytes(stored), np.uint8)
    assert not memory.flags.writeable
    out = np.full((3, channels, 7, 9) if planar else (3, 7, 9, channels), 77, dtype)
    view = out.transpose(0, 2, 3, 1) if planar else out
    signs = [(1, 1), (1, -1), (-1, 1)]
    compose_wide(launch(BOXES, signs, (7, 9), way[0]), PixelSource(table, memory, memory), view)
    for found, image, (y, x, h, w), (down, right) in zip(view, images, BOXES, signs, strict=True):
        crop = np.ascontiguousarray(image[y : y + h, x : x + w])
        np.testing.assert_array_equal(found, way[1](crop, 7, 9)[::down, ::right])


def test_an_image_of_the_frames_size_is_copied():
    image = np.array([[np.nan, 1], [-np.inf, 1e-42]], np.float32)
    memory = np.frombuffer(b"?" + image.tobytes(), np.uint8)
    table = np.array([[KIND_STORED, 1, 0, 0, 8, 0, 2, 2]], np.int64)
    out = np.zeros((1, 2, 2, 1), np.float32)
    work = launch([(0, 0, 2, 2)], [(1, 1)], (2, 2), RESAMPLE_NONE)
    compose_wide(work, PixelSource(table, memory, memory), out)
    np.testing.assert_array_equal(out[0, ..., 0], image)
