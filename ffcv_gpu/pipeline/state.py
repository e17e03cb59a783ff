"""FFCV's old place of `State`; re-exports only."""

from __future__ import annotations

from ffcv_gpu.compat.state import State

__all__ = ["State"]
