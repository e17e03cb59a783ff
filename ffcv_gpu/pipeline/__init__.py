"""The description of what a loader does: which steps produce which output, and what is fused."""

from __future__ import annotations

import importlib
from typing import Any

from ffcv_gpu.pipeline.spec import PipelineSpec

__all__ = ["Compiler", "Pipeline", "PipelineSpec"]

#: FFCV's names and modules here -> the module of the name, "" for a module itself
_OLD = {
    **dict.fromkeys(
        ("allocation_query", "compiler", "graph", "operation", "pipeline", "pipeline_spec", "state"), ""
    ),
    "Compiler": "compiler",
    "Pipeline": "pipeline",
}


def __getattr__(name: str) -> Any:
    """Import FFCV's old paths on first use, because what they re-export lives in a layer above."""
    if name not in _OLD:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_OLD[name] or name}")
    return getattr(module, name) if _OLD[name] else module
