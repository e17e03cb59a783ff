"""Image steps after a finished batch, such as a flip after a user's own operation.

A launch does them on 8-bit images, numpy on others.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.compat.bound import KEPT_BUFFERS
from ffcv_gpu.compose import PassLauncher, finished_pixels, launcher
from ffcv_gpu.device import CpuDevice
from ffcv_gpu.draws import Draws
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.pipeline.program import PassStage, Program
from ffcv_gpu.plan import BatchPlan, plan_stages, settled
from ffcv_gpu.steps import ArrayStep, Erase, FloatArray, IntArray, Mirror, Shift, ValueSpec, channel_values

__all__ = ["ImagesAgain", "MovedAgain"]

logger = logging.getLogger(__name__)


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
        self._name, self._fused, self._compared = program.name, program.fused, False
        self._launches = tuple(map(launcher, settled(program.stages)))
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
        ``255 - images``, for example, is int64. A warning says if that changes values of the first batch.

        Raises
        ------
        PipelineError
            If the batch does not have the shape that the previous step declared.
        """
        check_shape(batch, spec)
        images = np.ascontiguousarray(batch, dtype=spec.dtype)
        self._warn_of_loss(batch, images)
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

    def _warn_of_loss(self, batch: Any, images: npt.NDArray[Any]) -> None:
        if self._compared or batch.dtype == images.dtype:
            return
        self._compared = True  # only one batch: comparing takes as long as the conversion
        if np.array_equal(batch, images):
            return
        logger.warning(
            "pipeline %r: an operation returns %s although its declare_state_and_memory says %s, and the next"
            " step got them as %s, without fractions: declare the dtype that it returns,"
            " replace(previous_state, dtype=np.dtype(%r)), or return whole numbers from 0 to 255",
            self._name, batch.dtype, images.dtype, images.dtype, str(batch.dtype),
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"launches on finished images: {len(self._launches)}"


class MovedAgain(ArrayStep):
    """Mirrors, shifts or erases the images of a batch, (N, H, W, C) of a type that no launch works on.

    Parameters
    ----------
    step : Mirror, Shift or Erase
    draw : int
        The id of its random draw.
    """

    any_thread = True
    why = "on the finished batch, by numpy"

    def __init__(self, step: Mirror | Shift | Erase, draw: int) -> None:
        self._step, self._draw = step, draw
        self.moves_images = not isinstance(step, Erase)

    def out_spec(self, spec: ValueSpec) -> ValueSpec:
        """Return `spec`; `PipelineError` if the step's fill or square does not fit such images."""
        height, width, channels = spec.shape or (0, 0, 0)
        if not isinstance(self._step, Mirror):
            self._step.check(height, width)
            if not self._step.only_moves:
                channel_values(self._step.fill, channels, f"{self!r}: fill")
        return spec

    def apply_samples(self, batch: Any, spec: ValueSpec, draws: Draws) -> Any:
        """Return the batch in newly allocated memory; `PipelineError` if it has another shape than `spec`."""
        check_shape(batch, spec)
        step, made = self._step, batch.copy()
        if isinstance(step, Mirror):
            flips = step.mirrored(draws, self._draw)
            made[flips] = np.flip(batch[flips], 1 if step.vertical else 2)
        elif isinstance(step, Erase):
            self._erase(step, made, step.rectangles(draws, self._draw, *batch.shape[1:3]))
        else:
            self._shift(step, batch, made, step.offsets(draws, self._draw))
        return made

    def _erase(self, step: Erase, made: Any, rectangles: IntArray) -> None:
        fill = self._fill(step, made)
        for image, (y0, x0, y1, x1) in zip(made, rectangles, strict=True):
            image[y0:y1, x0:x1] = fill

    def _shift(self, step: Shift, batch: Any, made: Any, offsets: IntArray) -> None:
        height, width = batch.shape[1:3]
        if step.only_moves:
            for image, seen, (dy, dx) in zip(made, batch, offsets.tolist(), strict=True):
                image[:] = seen[reflected(dy, height)][:, reflected(dx, width)]
            return
        made[:] = self._fill(step, made)
        for image, seen, (dy, dx) in zip(made, batch, offsets.tolist(), strict=True):
            rows, columns = shown(dy, height), shown(dx, width)
            image[rows[0], columns[0]] = seen[rows[1], columns[1]]

    def _fill(self, step: Shift | Erase, made: Any) -> npt.NDArray[Any]:
        return fill_of(channel_values(step.fill, made.shape[3], repr(step)), made.dtype)

    def __repr__(self) -> str:
        return repr(self._step)


def check_shape(batch: Any, spec: ValueSpec) -> None:
    """Raise `PipelineError` if a user's operation returned another shape than it declared."""
    if batch.shape[1:] != spec.shape:
        raise PipelineError(f"the previous step declared {spec}, but returned shape {batch.shape}")


def shown(by: int, side: int) -> tuple[slice, slice]:
    """Return which of `side` pixels are inside after a shift, and which pixels they show before it."""
    return slice(max(0, -by), max(0, side - by)), slice(max(0, by), max(0, side + by))


def reflected(by: int, side: int) -> IntArray:
    """Return which of `side` pixels each one shows after a shift that reflects."""
    positions: IntArray = np.abs(np.arange(by, by + side))
    reflections: IntArray = np.minimum(positions, 2 * (side - 1) - positions)
    return reflections


def fill_of(values: FloatArray, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return a fill colour as `dtype`; whole numbers are rounded and clipped."""
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return values.astype(dtype)
