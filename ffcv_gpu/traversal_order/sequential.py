"""FFCV's module path of `Sequential`; re-exports only."""

from __future__ import annotations

from ffcv_gpu.loader.traversal import Sequential

__all__ = ["Sequential"]
