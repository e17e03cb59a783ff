"""From a stage of images and its plan to the arguments of one launch of the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from ffcv_gpu.device import FusedLaunch, PassLaunch
from ffcv_gpu.kernels.codes import RESAMPLE_ANTIALIAS, RESAMPLE_AREA, RESAMPLE_NONE
from ffcv_gpu.kernels.pass_codes import IN_PLACE
from ffcv_gpu.pipeline.program import FusedStage, PassStage, Stage
from ffcv_gpu.plan import PassPlan, StagePlan, stage_program

__all__ = ["Launcher", "PassLauncher", "launcher"]

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
            self._constants.mean_columns,
        )


class PassLauncher:
    """One launch on finished images, with everything that is the same for each batch worked out.

    Parameters
    ----------
    stage : PassStage
    """

    def __init__(self, stage: PassStage) -> None:
        self.stage = stage
        constants = stage.step.constants(*stage.frame, stage.channels)
        self._constants = tuple(np.ascontiguousarray(array) for array in constants)

    @property
    def bit_type(self) -> np.dtype[Any]:
        """The dtype of its images."""
        return np.dtype(np.uint8)

    @property
    def in_place(self) -> bool:
        """True if it writes the images that it is given."""
        return self.stage.step.kernel in IN_PLACE

    def arguments(self, plan: PassPlan) -> PassLaunch:
        """Return the launch that makes the samples of `plan`."""
        return PassLaunch(self.stage.step.kernel, plan.params, self._constants, self.stage.memory_shape)


def launcher(stage: Stage) -> Launcher | PassLauncher:
    """Return what launches `stage`."""
    return Launcher(stage) if isinstance(stage, FusedStage) else PassLauncher(stage)
