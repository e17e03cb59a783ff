"""FFCV's protocol for operations of one's own, and what else only FFCV's users import.

FFCV's old module paths (`ffcv_gpu.pipeline.operation`, `ffcv_gpu.pipeline.state`, ...) lead here. An
`Operation` runs on the CPU, on the finished batch, in one thread; ``loader.explain()`` says so. New code
is better written as a torch module.
"""

from __future__ import annotations

from ffcv_gpu.compat.allocation import Allocation, AllocationQuery
from ffcv_gpu.compat.compiler import Compiler
from ffcv_gpu.compat.operation import Operation
from ffcv_gpu.compat.state import State

__all__ = ["Allocation", "AllocationQuery", "Compiler", "Operation", "State"]
