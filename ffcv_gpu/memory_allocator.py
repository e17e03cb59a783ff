"""FFCV's module path of `MemoryAllocator`; re-exports only."""

from __future__ import annotations

from ffcv_gpu.compat.absent import MemoryAllocator

__all__ = ["MemoryAllocator"]
