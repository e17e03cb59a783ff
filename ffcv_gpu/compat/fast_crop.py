"""FFCV's crop functions compiled by numba, for calls from users' own compiled functions."""

from __future__ import annotations

from typing import Any

from numba import njit

from ffcv_gpu.compat import crops, library

__all__ = ["get_center_crop", "get_random_crop", "resize_crop"]

resize_crop: Any = njit(nogil=True)(library.resize_crop)
get_random_crop: Any = njit(nogil=True, fastmath=True)(crops.get_random_crop)


@njit(nogil=True, fastmath=True)
def get_center_crop(height: Any, width: Any, ratio: Any) -> tuple[int, int, int, int]:
    """Return the centred square of side ``int(ratio * min(height, width))`` as ``(i, j, h, w)``."""
    side = int(ratio * min(height, width))
    return (int(height) - side) // 2, (int(width) - side) // 2, side, side
