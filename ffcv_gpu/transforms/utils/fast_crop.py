"""FFCV's old place of compiled crops; re-exports only."""

from __future__ import annotations

from ffcv_gpu.compat.fast_crop import get_center_crop, get_random_crop, resize_crop

__all__ = ["get_center_crop", "get_random_crop", "resize_crop"]
