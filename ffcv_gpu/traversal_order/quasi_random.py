"""FFCV's module path of `QuasiRandom`; re-exports only."""

from __future__ import annotations

from ffcv_gpu.loader.traversal import QuasiRandom

__all__ = ["QuasiRandom"]
