"""FFCV's old place of the memory managers; re-exports only."""

from __future__ import annotations

from ffcv_gpu.compat.memory_managers import MemoryContext, MemoryManager, OSCacheManager

__all__ = ["MemoryContext", "MemoryManager", "OSCacheManager"]
