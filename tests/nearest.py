"""Pillow's NEAREST, to compare with."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

__all__ = ["nearest_by_pillow", "nearest_pixels_by_pillow"]


def nearest_pixels_by_pillow(size: int, out_size: int) -> Any:
    """Return which pixel of an axis Pillow takes for each of `out_size`.

    Where two are equally near, its rounding errors decide (and OpenCV's INTER_NEAREST_EXACT, of the same
    kind): there, return the later one, which exact arithmetic gives.
    """
    axis = Image.fromarray(np.arange(size, dtype=np.int32)[None])
    taken = np.asarray(axis.resize((out_size, 1), Image.Resampling.NEAREST))[0]
    centres = (2 * np.arange(out_size) + 1) * size  # in units of 1 / (2 * out_size) pixels
    later, tied = centres // (2 * out_size), centres % (2 * out_size) == 0
    assert (taken == later)[~tied].all() and (later - taken)[tied].max(initial=0) <= 1
    return later


def nearest_by_pillow(image: Any, height: int, width: int) -> Any:
    """Return an image (H, W, ...) of any dtype in another size."""
    rows = nearest_pixels_by_pillow(image.shape[0], height)
    return image[rows][:, nearest_pixels_by_pillow(image.shape[1], width)]
