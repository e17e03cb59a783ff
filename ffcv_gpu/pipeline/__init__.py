"""The description of what a loader does: which steps make which output, and what is fused."""

from ffcv_gpu.pipeline.spec import PipelineSpec

__all__ = ["PipelineSpec"]
