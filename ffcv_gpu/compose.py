"""Turns an image stage and its plan into the arguments of one launch on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.device import FusedLaunch, PassLaunch, PixelSource
from ffcv_gpu.kernels.block import BlockLayout
from ffcv_gpu.kernels.codes import (
    COLUMN_HEIGHT,
    COLUMN_KIND,
    COLUMN_OFFSET0,
    COLUMN_PITCH0,
    COLUMN_WIDTH,
    ERASE_OUTSIDE,
    KIND_DECODED,
    RESAMPLE_ANTIALIAS,
    RESAMPLE_AREA,
    RESAMPLE_NEAREST,
    RESAMPLE_NONE,
    TABLE_COLUMNS,
)
from ffcv_gpu.kernels.pass_block import PassLayout
from ffcv_gpu.kernels.pass_codes import IN_PLACE
from ffcv_gpu.pipeline.program import FusedStage, PassStage, Stage
from ffcv_gpu.plan import PassPlan, StagePlan, stage_program
from ffcv_gpu.steps import IntArray

__all__ = ["Launcher", "PassLauncher", "finished_pixels", "finished_table", "launcher", "pixel_table"]

RESAMPLES = {"area": RESAMPLE_AREA, "antialias": RESAMPLE_ANTIALIAS, "nearest": RESAMPLE_NEAREST}


class Launcher:
    """One fused stage, with everything precomputed that is the same for every batch.

    Parameters
    ----------
    stage : FusedStage
    """

    #: it writes other memory than it reads
    in_place = False

    def __init__(self, stage: FusedStage) -> None:
        self.stage = stage
        self._constants = stage_program(stage)
        self._table = np.ascontiguousarray(stage.table)
        whole = stage.sampling.frame() is None
        self._resample = RESAMPLE_NONE if whole else RESAMPLES[stage.resize]
        height, width, channels = *stage.frame, stage.channels
        pixel = (width, 1, height * width) if stage.planar else (width * channels, channels, 1)
        self._strides = np.array([height * width * channels, *pixel], np.int64)

    @property
    def bit_type(self) -> np.dtype[Any]:
        """The dtype of the output's memory: the bit type of `stage.dtype`, or the dtype of wide images."""
        return np.dtype(self.stage.wide or self._table.dtype)

    def arguments(self, plan: StagePlan) -> FusedLaunch:
        """Return the launch that computes the samples of `plan`."""
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

    @property
    def mean_columns(self) -> tuple[int, ...]:
        """Parameter columns that receive the mean of the grey source before the launch."""
        return self._constants.mean_columns

    def block(self, count: int, columns: int) -> BlockLayout:
        """Return the layout of the launch block of `count` samples with `columns` parameters each."""
        ops = self._constants.ops
        return BlockLayout(
            count,
            *self.stage.frame,
            self.stage.channels,
            ops=len(ops),
            params=columns,
            resample=self._resample,
            coloured=bool((ops[:, 0] > ERASE_OUTSIDE).any()),
        )

    def write_block(
        self, layout: BlockLayout, block: npt.NDArray[np.uint8], plan: StagePlan, table: IntArray
    ) -> None:
        """Write a launch block, except for its start tables.

        Parameters
        ----------
        layout : BlockLayout
            The layout of `block`, for as many samples as `plan` has.
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
        """Write the start tables of samples [lo, hi); the rest of the block must already be written."""
        from ffcv_gpu.kernels.starts_cpu import fill_starts

        fill_starts(*layout.start_arguments(block), lo, hi)


class PassLauncher:
    """One launch on finished images, with everything precomputed that is the same for every batch.

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
        """The dtype of the images."""
        return np.dtype(np.uint8)

    @property
    def in_place(self) -> bool:
        """True if it modifies its input images in place."""
        return self.stage.step.kernel in IN_PLACE

    def block(self, count: int, columns: int) -> PassLayout:
        """Return the layout of the block of `count` samples with `columns` parameters each."""
        constants = tuple((str(array.dtype), array.size) for array in self._constants)
        return PassLayout(count, self.stage.step.kernel, self.stage.memory_shape, columns, constants)

    def write_block(
        self, layout: PassLayout, block: npt.NDArray[np.uint8], plan: PassPlan, table: IntArray
    ) -> None:
        """Write a block; see `Launcher.write_block`."""
        layout.write(block, table=table, params=plan.params, constants=self._constants)

    def arguments(self, plan: PassPlan) -> PassLaunch:
        """Return the launch that computes the samples of `plan`."""
        return PassLaunch(self.stage.step.kernel, plan.params, self._constants, self.stage.memory_shape)


def launcher(stage: Stage) -> Launcher | PassLauncher:
    """Return the launcher of `stage`."""
    return Launcher(stage) if isinstance(stage, FusedStage) else PassLauncher(stage)


def finished_pixels(images: npt.NDArray[np.uint8]) -> PixelSource:
    """Return finished images, contiguous uint8 (N, H, W, C), as the source of a launch."""
    pixels = images.reshape(-1)
    return PixelSource(finished_table(images.shape), pixels, pixels[:0])


def finished_table(shape: tuple[int, ...], start: int = 0) -> npt.NDArray[np.int64]:
    """Return the `pixel_table` of contiguous images of `shape`, (N, H, W, C), that begin at byte `start`."""
    count, height, width, channels = shape
    starts = start + np.arange(count, dtype=np.int64) * (height * width * channels)
    sizes = np.full(count, height), np.full(count, width)
    return pixel_table(starts, KIND_DECODED, *sizes, channels)


def pixel_table(
    offsets: IntArray, kind: int, heights: IntArray, widths: IntArray, pixel_bytes: int
) -> npt.NDArray[np.int64]:
    """Return the kernel's table for interleaved images without row padding, int64 (n, 8)."""
    table = np.zeros((offsets.size, TABLE_COLUMNS), np.int64)
    table[:, COLUMN_KIND] = kind
    table[:, COLUMN_OFFSET0] = offsets
    table[:, COLUMN_PITCH0] = pixel_bytes * widths
    table[:, COLUMN_HEIGHT] = heights
    table[:, COLUMN_WIDTH] = widths
    return table
