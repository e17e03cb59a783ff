"""FFCV's old place of `Operation`; re-exports only."""

from __future__ import annotations

from ffcv_gpu.compat.allocation import AllocationQuery
from ffcv_gpu.compat.operation import Operation
from ffcv_gpu.compat.state import State

__all__ = ["AllocationQuery", "Operation", "State"]
