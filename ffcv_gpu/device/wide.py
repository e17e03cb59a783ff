"""Images that no fused kernel handles, on the CPU: resampled one by one, by OpenCV without the GIL.

The fused kernels handle only 8-bit values, which they map through a table of 256 entries.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.crops import nearest_pixels
from ffcv_gpu.device.base import FusedLaunch, PixelSource
from ffcv_gpu.kernels.codes import (
    COLUMN_HEIGHT,
    COLUMN_KIND,
    COLUMN_OFFSET0,
    COLUMN_WIDTH,
    KIND_STORED,
    RESAMPLE_NEAREST,
)

__all__ = ["compose_wide", "resized"]


def compose_wide(launch: FusedLaunch, pixels: PixelSource, out: npt.NDArray[Any]) -> None:
    """Crop, resample and mirror n raw images.

    Parameters
    ----------
    launch : FusedLaunch
        Of a stage that only crops and mirrors.
    pixels : PixelSource
        Images are little-endian, with contiguous rows, at any alignment; those in `decoded` are blank.
    out : (n, height, width, channels) of the images' dtype
        Any strides.
    """
    height, width = launch.frame
    channels, dtype = out.shape[3], out.dtype.newbyteorder("<")
    sizes = pixels.table[:, [COLUMN_KIND, COLUMN_OFFSET0, COLUMN_HEIGHT, COLUMN_WIDTH]].tolist()
    boxes, signs = launch.boxes.tolist(), launch.geometry[:, [0, 2]].tolist()
    for row, (kind, begin, tall, wide) in enumerate(sizes):
        if kind != KIND_STORED:
            out[row] = 0
            continue
        end = begin + tall * wide * channels * dtype.itemsize
        image = pixels.stored[begin:end].view(dtype).reshape(tall, wide, channels)
        y, x, box_height, box_width = boxes[row]
        # OpenCV needs aligned values; payloads may have any alignment.
        crop = np.require(image[y : y + box_height, x : x + box_width], out.dtype, ["C", "A"])
        if (box_height, box_width) != (height, width):
            crop = resized(crop, height, width, nearest=launch.resample == RESAMPLE_NEAREST)
        sign_y, sign_x = signs[row]
        out[row] = crop[::sign_y, ::sign_x]


def resized(image: npt.NDArray[Any], height: int, width: int, *, nearest: bool) -> npt.NDArray[Any]:
    """Return an image, (H, W, channels) of native byte order, in another size, (height, width, channels).

    `nearest`: each pixel is the one at its centre (`crops.nearest_pixels`); else OpenCV's INTER_AREA.
    """
    if nearest:
        rows, columns = nearest_pixels(image.shape[0], height), nearest_pixels(image.shape[1], width)
        return image[rows[:, None], columns]
    import cv2

    shrunk = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return shrunk.reshape(height, width, -1)
