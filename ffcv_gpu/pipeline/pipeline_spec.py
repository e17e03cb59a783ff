"""FFCV's old place of `PipelineSpec`; re-exports only."""

from __future__ import annotations

from ffcv_gpu.pipeline.spec import PipelineSpec

__all__ = ["PipelineSpec"]
