"""FFCV's crop functions, for users' own operations: plain code that numba can compile.

They draw from numpy's generator (in compiled code numba's), as in FFCV. The loader's own crops are those of
`ffcv_gpu.crops`, whose numbers are keyed by sample.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["get_center_crop", "get_random_crop"]


def get_random_crop(height: Any, width: Any, scale: Any, ratio: Any) -> tuple[int, int, int, int]:
    """Return a random crop ``(i, j, h, w)``: row, column, height, width in pixels.

    Up to 10 tries of an area uniform in `scale` times the image's and an aspect (width / height)
    log-uniform in `ratio`; else the largest centred crop whose aspect lies within `ratio`.
    """
    area = height * width
    log_low, log_high = np.log(ratio[0]), np.log(ratio[1])
    for _ in range(10):
        target = area * np.random.uniform(scale[0], scale[1])  # noqa: NPY002 (numba knows no other)
        aspect = np.exp(np.random.uniform(log_low, log_high))  # noqa: NPY002
        w, h = int(np.rint(np.sqrt(target * aspect))), int(np.rint(np.sqrt(target / aspect)))
        if 0 < w <= width and 0 < h <= height:
            i = int(np.random.uniform(0, height - h + 1))  # noqa: NPY002
            j = int(np.random.uniform(0, width - w + 1))  # noqa: NPY002
            return i, j, h, w
    h, w = int(height), int(width)
    if width / height < ratio[0]:
        h = int(np.rint(width / ratio[0]))
    elif width / height > ratio[1]:
        w = int(np.rint(height * ratio[1]))
    return (int(height) - h) // 2, (int(width) - w) // 2, h, w


def get_center_crop(height: Any, width: Any, _: Any, ratio: Any) -> tuple[int, int, int, int]:
    """Return the centred square of side ``int(ratio * min(height, width))`` as ``(i, j, h, w)``."""
    side = int(ratio * min(height, width))
    return (int(height) - side) // 2, (int(width) - side) // 2, side, side
