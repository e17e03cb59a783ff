"""FFCV's module path of `ProcessCacheManager`; re-exports only."""

from __future__ import annotations

from ffcv_gpu.compat.process_cache import ProcessCacheManager

__all__ = ["ProcessCacheManager"]
