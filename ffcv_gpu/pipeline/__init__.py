"""The description of what a loader does: which steps make which output, and what is fused."""

from __future__ import annotations

import importlib
from typing import Any

from ffcv_gpu.pipeline.spec import PipelineSpec

__all__ = ["PipelineSpec"]


def __getattr__(name: str) -> Any:
    """Give `Compiler` under FFCV's old path, on first use: it lives in a room above."""
    if name not in {"Compiler"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("ffcv_gpu.compat.compiler"), name)
