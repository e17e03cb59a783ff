"""FFCV's old place of the orders of an epoch; re-exports only."""

from __future__ import annotations

from ffcv_gpu.loader.traversal import QuasiRandom, Random, Sequential

__all__ = ["QuasiRandom", "Random", "Sequential"]
