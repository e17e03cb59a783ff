"""The description of what a loader does: which steps produce which output, and what is fused."""

from __future__ import annotations

import importlib
from typing import Any

from ffcv_gpu.pipeline.spec import PipelineSpec

__all__ = ["PipelineSpec"]


def __getattr__(name: str) -> Any:
    """Import FFCV's old paths on first use, because what they re-export lives in a layer above."""
    if name == "Compiler":
        return importlib.import_module("ffcv_gpu.pipeline.compiler").Compiler
    if name not in {"allocation_query", "compiler", "operation", "pipeline_spec", "state"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")
