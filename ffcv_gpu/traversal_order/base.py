"""FFCV's module path of `TraversalOrder`; re-exports only."""

from __future__ import annotations

from ffcv_gpu.loader.traversal import TraversalOrder

__all__ = ["TraversalOrder"]
