"""FFCV's module path of `OSCacheManager`; re-exports only."""

from __future__ import annotations

from ffcv_gpu.compat.memory_managers import OSCacheManager

__all__ = ["OSCacheManager"]
