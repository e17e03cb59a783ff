"""FFCV's module path of the memory managers' base classes; re-exports only."""

from __future__ import annotations

from ffcv_gpu.compat.memory_managers import MemoryContext, MemoryManager

__all__ = ["MemoryContext", "MemoryManager"]
