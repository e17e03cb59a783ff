"""From a fused stage and its plan to the arguments of one launch of the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.device import FusedLaunch
from ffcv_gpu.kernels.block import BlockLayout
from ffcv_gpu.kernels.codes import RESAMPLE_ANTIALIAS, RESAMPLE_AREA, RESAMPLE_NONE
from ffcv_gpu.pipeline.program import FusedStage
from ffcv_gpu.plan import StagePlan, stage_program
from ffcv_gpu.steps import IntArray

__all__ = ["Launcher"]

RESAMPLES = {"area": RESAMPLE_AREA, "antialias": RESAMPLE_ANTIALIAS}


class Launcher:
    """One fused stage, with everything that is the same for each batch worked out.

    Parameters
    ----------
    stage : FusedStage
    """

    def __init__(self, stage: FusedStage) -> None:
        self.stage = stage
        self._constants = stage_program(stage)
        self._table = np.ascontiguousarray(stage.table)
        whole = stage.sampling.frame() is None
        self._resample = RESAMPLE_NONE if whole else RESAMPLES[stage.sampling.resize]
        height, width, channels = *stage.frame, stage.channels
        pixel = (width, 1, height * width) if stage.planar else (width * channels, channels, 1)
        self._strides = np.array([height * width * channels, *pixel], np.int64)

    @property
    def bit_type(self) -> np.dtype[Any]:
        """The dtype of the output's memory: the bits of `stage.dtype`."""
        return np.dtype(self._table.dtype)

    def arguments(self, plan: StagePlan) -> FusedLaunch:
        """Return the launch that makes the samples of `plan`."""
        return FusedLaunch(
            plan.boxes,
            plan.geometry,
            plan.params,
            self._constants.ops,
            self._constants.fills,
            self._constants.late_from,
            self._table,
            self._strides,
            self.stage.frame,
            self._resample,
        )

    def block(self, count: int) -> BlockLayout:
        """Return how the launch block of `count` samples is laid out."""
        constants = self._constants
        return BlockLayout(
            count,
            *self.stage.frame,
            self.stage.channels,
            ops=len(constants.ops),
            params=constants.param_columns,
            resample=self._resample,
        )

    def write_block(
        self, layout: BlockLayout, block: npt.NDArray[np.uint8], plan: StagePlan, table: IntArray
    ) -> None:
        """Write a launch block, but for its start tables.

        Parameters
        ----------
        layout : BlockLayout
            Of `block`, for as many samples as `plan` has.
        block : uint8 (layout.size_bytes,)
        plan : StagePlan
        table : int64 (N, 8)
            Where the pixels of each sample lie; columns of `kernels.codes`.
        """
        constants = self._constants
        layout.write(
            block,
            table=table,
            boxes=plan.boxes,
            geometry=plan.geometry,
            params=plan.params,
            ops=constants.ops,
            fills=constants.fills,
            late_from=constants.late_from,
            lut=self._table,
            strides=self._strides,
        )

    def write_starts(self, layout: BlockLayout, block: npt.NDArray[np.uint8], lo: int, hi: int) -> None:
        """Write the start tables of samples [lo, hi); the rest of the block must be written."""
        from ffcv_gpu.kernels.starts_cpu import fill_starts

        fill_starts(*layout.start_arguments(block), lo, hi)
