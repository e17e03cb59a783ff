"""FFCV's module path of the traversal orders; re-exports only."""

from __future__ import annotations

from ffcv_gpu.traversal_order.base import TraversalOrder
from ffcv_gpu.traversal_order.quasi_random import QuasiRandom
from ffcv_gpu.traversal_order.random import Random
from ffcv_gpu.traversal_order.sequential import Sequential

__all__ = ["QuasiRandom", "Random", "Sequential", "TraversalOrder"]
