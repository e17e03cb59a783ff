"""FFCV's module path of `Random`; re-exports only."""

from __future__ import annotations

from ffcv_gpu.loader.traversal import Random

__all__ = ["Random"]
