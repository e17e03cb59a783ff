"""Image steps after a finished batch, such as a flip after a user's own operation."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.compat.bound import KEPT_BUFFERS
from ffcv_gpu.compose import PassLauncher, finished_pixels, launcher
from ffcv_gpu.device import CpuDevice
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.pipeline.program import PassStage, Program
from ffcv_gpu.plan import BatchPlan, plan_stages
from ffcv_gpu.steps import ArrayStep, ValueSpec

__all__ = ["ImagesAgain"]


def scratch(count: int) -> npt.NDArray[np.float32]:
    """Return memory for a launch, newly allocated because epochs may run concurrently."""
    return np.empty(count, np.float32)


class ImagesAgain(ArrayStep):
    """Runs the launches of `program` on the images of a batch, (N, H, W, C) uint8, in the calling thread.

    Parameters
    ----------
    program : Program
        Built for images of the batch's size. Its tail is not run here.
    """

    any_thread = True

    def __init__(self, program: Program) -> None:
        self._fused = program.fused
        self._launches = tuple(map(launcher, program.stages))
        self._device = CpuDevice(keep=KEPT_BUFFERS)
        #: boxes that follow the image do not follow a flip here
        self.moves_images = any(
            isinstance(s, PassStage) or s.actions or s.sampling.frame() for s in program.stages
        )

    def out_spec(self, spec: ValueSpec) -> ValueSpec:
        """Return the spec of what the last launch writes."""
        return self._fused

    def apply_planned(self, batch: Any, spec: ValueSpec, plan: BatchPlan) -> Any:
        """Return the batch in newly allocated memory.

        A batch of another dtype is converted to the one that the previous step declared: numba's
        ``255 - images``, for example, is int64.

        Raises
        ------
        PipelineError
            If the batch does not have the shape that the previous step declared.
        """
        if batch.shape[1:] != spec.shape:
            raise PipelineError(f"the previous step declared {spec}, but returned shape {batch.shape}")
        images = np.ascontiguousarray(batch, dtype=spec.dtype)
        count, height, width, _ = images.shape
        stages = [launch.stage for launch in self._launches]
        plans = plan_stages(stages, np.full(count, height), np.full(count, width), plan.draws)
        for launch, parameters in zip(self._launches, plans, strict=True):
            pixels, device = finished_pixels(images), self._device
            if not launch.in_place:
                images = device.allocate((count, *launch.stage.memory_shape), launch.bit_type)
            run = device.transform if isinstance(launch, PassLauncher) else device.compose
            run(launch.arguments(parameters), pixels, images, scratch)  # type: ignore[arg-type]
        return self._device.finish(images, self._fused)

    def __repr__(self) -> str:
        return f"launches on finished images: {len(self._launches)}"
