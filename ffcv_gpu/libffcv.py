"""FFCV's old place of `memcpy`; re-exports only."""

from __future__ import annotations

from ffcv_gpu.compat.utils import memcpy

__all__ = ["memcpy"]
