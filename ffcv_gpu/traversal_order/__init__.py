"""FFCV's old place of the orders of an epoch; re-exports only."""

from __future__ import annotations

from ffcv_gpu.loader.traversal import QuasiRandom, Random, Sequential
from ffcv_gpu.traversal_order.base import TraversalOrder

__all__ = ["QuasiRandom", "Random", "Sequential", "TraversalOrder"]
