"""FFCV's old place of the memory managers; re-exports only."""

from __future__ import annotations

from ffcv_gpu.compat.memory_managers import MemoryContext, MemoryManager, OSCacheManager
from ffcv_gpu.compat.process_cache import ProcessCacheManager

__all__ = ["MemoryContext", "MemoryManager", "OSCacheManager", "ProcessCacheManager"]
