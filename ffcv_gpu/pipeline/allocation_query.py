"""FFCV's old place of `AllocationQuery`; re-exports only."""

from __future__ import annotations

from ffcv_gpu.compat.allocation import Allocation, AllocationQuery, allocate_query

__all__ = ["Allocation", "AllocationQuery", "allocate_query"]
