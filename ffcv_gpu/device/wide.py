"""16-bit and float images on the CPU: OpenCV resamples them one by one, without the GIL.

The fused kernels handle only 8-bit values, which they map through a table of 256 entries.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.device.base import FusedLaunch, PixelSource
from ffcv_gpu.kernels.codes import (
    COLUMN_HEIGHT,
    COLUMN_KIND,
    COLUMN_OFFSET0,
    COLUMN_WIDTH,
    KIND_STORED,
    RESAMPLE_NEAREST,
)

__all__ = ["compose_wide"]


def compose_wide(launch: FusedLaunch, pixels: PixelSource, out: npt.NDArray[Any]) -> None:
    """Crop, resample and mirror n raw images.

    Parameters
    ----------
    launch : FusedLaunch
        Of a stage that only crops and mirrors.
    pixels : PixelSource
        Images are little-endian, with contiguous rows, at any alignment; `decoded` holds blank ones.
    out : (n, height, width, channels) of the images' dtype
        Any strides.
    """
    import cv2

    height, width = launch.frame
    channels, dtype = out.shape[3], out.dtype.newbyteorder("<")
    way = cv2.INTER_NEAREST if launch.resample == RESAMPLE_NEAREST else cv2.INTER_AREA
    sizes = pixels.table[:, [COLUMN_KIND, COLUMN_OFFSET0, COLUMN_HEIGHT, COLUMN_WIDTH]].tolist()
    boxes, signs = launch.boxes.tolist(), launch.geometry[:, [0, 2]].tolist()
    for row, (kind, begin, tall, wide) in enumerate(sizes):
        end = begin + tall * wide * channels * dtype.itemsize
        memory = pixels.stored if kind == KIND_STORED else pixels.decoded
        image = memory[begin:end].view(dtype).reshape(tall, wide, channels)
        y, x, box_height, box_width = boxes[row]
        # OpenCV needs aligned values; payloads may have any alignment.
        crop = np.require(image[y : y + box_height, x : x + box_width], out.dtype, ["C", "A"])
        if (box_height, box_width) != (height, width):
            crop = cv2.resize(crop, (width, height), interpolation=way).reshape(height, width, channels)
        sign_y, sign_x = signs[row]
        out[row] = crop[::sign_y, ::sign_x]
