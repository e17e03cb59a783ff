"""Images of 16 bits and of floats, on the CPU: OpenCV resamples them, one after the other, without the GIL.

The fused kernels know 8-bit values only, which a table of 256 entries can turn into anything.
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
        Of a stage of crop and mirrors alone.
    pixels : PixelSource
        Images are little-endian, rows without gaps, at any byte; `decoded` holds those that are blank.
    out : (n, height, width, channels) of the images' dtype
        A view, in whatever layout.
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
        # OpenCV wants values at addresses that are multiples of their size; payloads lie anywhere.
        crop = np.require(image[y : y + box_height, x : x + box_width], out.dtype, ["C", "A"])
        if (box_height, box_width) != (height, width):
            crop = cv2.resize(crop, (width, height), interpolation=way).reshape(height, width, channels)
        sign_y, sign_x = signs[row]
        out[row] = crop[::sign_y, ::sign_x]
