"""From a fused stage and its plan to one launch of the kernel that makes the output."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.kernels.codes import (
    RESAMPLE_ANTIALIAS,
    RESAMPLE_AREA,
    RESAMPLE_NONE,
    scratch_size,
)
from ffcv_gpu.pipeline.program import FusedStage
from ffcv_gpu.plan import StagePlan, stage_program
from ffcv_gpu.staging import Slot

__all__ = ["Launch"]

RESAMPLES = {"area": RESAMPLE_AREA, "antialias": RESAMPLE_ANTIALIAS}


class Launch:
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

    def run(
        self,
        plan: StagePlan,
        table: npt.NDArray[np.int64],
        decoded: npt.NDArray[np.uint8],
        stored: npt.NDArray[np.uint8],
        out: npt.NDArray[Any],
        slot: Slot,
    ) -> None:
        """Make the outputs of n samples, on the CPU, in this thread.

        Parameters
        ----------
        plan : StagePlan
            Of these samples.
        table : int64 (n, 8)
            Where each sample's pixels lie; columns as `kernels.codes` says.
        decoded, stored : uint8, 1-D, read-only
            The two memories that `table` points into.
        out : bit type, (n, *stage.memory_shape), contiguous
        slot : Slot
            Lends scratch memory.
        """
        from ffcv_gpu.kernels.shell_cpu import compose

        height, width = self.stage.frame
        tallest, widest = plan.boxes[:, 2:].max(axis=0).tolist()
        compose(
            decoded,
            stored,
            table,
            plan.boxes,
            plan.geometry,
            plan.params,
            self._constants.ops,
            self._constants.fills,
            self._constants.late_from,
            self._table,
            out.reshape(-1),
            self._strides,
            height,
            width,
            self._resample,
            slot.scratch(scratch_size(tallest, widest, height, width, self.stage.channels)),
            0,
            len(plan.boxes),
        )
