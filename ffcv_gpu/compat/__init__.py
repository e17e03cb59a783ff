"""FFCV's protocol for custom operations, and other modules that only FFCV's users import.

FFCV's module paths (`ffcv_gpu.pipeline.operation`, `ffcv_gpu.pipeline.state`, ...) re-export it. An
`Operation` runs on the CPU, on a finished batch, in one thread; ``loader.explain()`` says so. In new code,
prefer a torch module.
"""

from __future__ import annotations

from ffcv_gpu.compat.allocation import Allocation, AllocationQuery
from ffcv_gpu.compat.compiler import Compiler
from ffcv_gpu.compat.operation import Operation
from ffcv_gpu.compat.state import State

__all__ = ["Allocation", "AllocationQuery", "Compiler", "Operation", "State"]
