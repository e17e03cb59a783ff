"""FFCV's old place of `Squeeze`; re-exports only."""

from __future__ import annotations

from ffcv_gpu.transforms.ops import Squeeze

__all__ = ["Squeeze"]
