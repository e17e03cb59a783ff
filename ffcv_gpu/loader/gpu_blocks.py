"""The launch blocks of one part of a batch, in its pinned memory: what the GPU's kernels are told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.compose import Launcher, PassLauncher, finished_table, pixel_table
from ffcv_gpu.kernels.block import BlockLayout
from ffcv_gpu.kernels.codes import (
    COLUMN_OFFSET0,
    COLUMN_PITCH0,
    KIND_DECODED,
)
from ffcv_gpu.loader.gpu_engine import GpuEngine
from ffcv_gpu.loader.gpu_layout import LaunchPlace, PartLayout
from ffcv_gpu.plan import BatchPlan, ImagePayloads
from ffcv_gpu.steps import IntArray

__all__ = ["LaunchBlocks"]

ByteArray = npt.NDArray[np.uint8]


class LaunchBlocks:
    """Writes the launch blocks of all outputs of one part.

    Parameters
    ----------
    engine : GpuEngine
    plan : BatchPlan
    layout : PartLayout
    pinned : uint8 (>= layout.pinned_bytes,)
    images : mapping of str to ImagePayloads
        The part's images by field.
    """

    def __init__(
        self,
        engine: GpuEngine,
        plan: BatchPlan,
        layout: PartLayout,
        pinned: ByteArray,
        images: Mapping[str, ImagePayloads],
    ) -> None:
        self._engine, self._plan, self._layout, self._pinned = engine, plan, layout, pinned
        self._images = images
        self._fields = {output: name for name, outputs in engine.images.items() for output in outputs}

    def write(self) -> None:
        """Write all of them except the start tables; called before any sample is read."""
        layout = self._layout
        for name, launchers in self._engine.launches.items():
            table, stages = self._table(name), self._plan.stages[name]
            for launch, place, stage in zip(launchers, layout.launches[name], stages, strict=True):
                plan: Any = stage.take(slice(layout.lo, layout.hi))
                block: Any = place.block
                launch.write_block(block, self._block(place), plan, table)
                table = self._finished(launch, place.target)

    def write_starts(self, lo: int, hi: int) -> None:
        """Write the start tables of samples [lo, hi); pieces of the part do so at the same time."""
        for name, launchers in self._engine.launches.items():
            for launch, place in zip(launchers, self._layout.launches[name], strict=True):
                if isinstance(place.block, BlockLayout) and isinstance(launch, Launcher):
                    launch.write_starts(place.block, self._block(place), lo, hi)

    def _block(self, place: LaunchPlace) -> ByteArray:
        return self._pinned[place.start : place.start + place.block.size_bytes]

    def _table(self, output: str) -> IntArray:
        """Return the pixel table of an output's first launch, whose pixels are all in the arena."""
        field = self._fields[output]
        images, places = self._images[field], self._layout.images[field]
        pixel = self._engine.dataset.pixel_bytes(field)
        starts = np.zeros_like(images.widths)
        starts[places.jpeg] = places.decoded
        table = pixel_table(starts, KIND_DECODED, images.heights, images.widths, 3)
        y, x, _, width = places.windows.T.astype(np.int64)
        # Boxes refer to the whole image, of which only a window is stored: this is where (0, 0) would be.
        table[places.raw, COLUMN_OFFSET0] = places.crops - pixel * (y * width + x)
        table[places.raw, COLUMN_PITCH0] = pixel * width
        return table

    def _finished(self, before: Launcher | PassLauncher, start: int) -> IntArray:
        """Return the pixel table of a later launch: contiguous images of one size."""
        count, stage = self._layout.hi - self._layout.lo, before.stage
        return finished_table((count, *stage.frame, stage.channels), start)
