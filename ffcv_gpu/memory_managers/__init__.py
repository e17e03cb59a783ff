"""FFCV's module path of the memory managers; re-exports only."""

from __future__ import annotations

from ffcv_gpu.memory_managers.base import MemoryContext, MemoryManager
from ffcv_gpu.memory_managers.os_cache import OSCacheManager
from ffcv_gpu.memory_managers.process_cache import ProcessCacheManager

__all__ = ["MemoryContext", "MemoryManager", "OSCacheManager", "ProcessCacheManager"]
